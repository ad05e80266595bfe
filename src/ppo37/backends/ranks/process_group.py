"""The ranks of a job, and how they communicate by PyTorch's process groups."""

import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ...envs import EnvState, Episode
from ...errors import RunError, UsageError
from ..device import cores_of_process, usable_cores
from .env_slice import EnvSlice
from .torchrun import launched, number, own_gpu, own_rank, timeout_s

START_S = 1800.0
"""How long ranks wait for each other at the start of a run, where each replays its games."""
ROLL_CALL_S = 5.0
CHECK_EVERY = 16
"""Updates between comparisons of the ranks' weights."""
ERRORS: dict[str, type[Exception]] = {"UsageError": UsageError, "RunError": RunError}


class Ranks:
    """The ranks of a job; here there is one, which communicates with nobody.

    All ranks must call the same methods in the same order. If a rank does not answer in time, they
    raise RunError with its number.
    """

    rank, size = 0, 1

    def __init__(self) -> None:
        self.cores = usable_cores()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and prints."""
        return self.rank == 0

    def env_slice(self, num_envs: int) -> EnvSlice:
        """Return the environments of this rank; UsageError if they cannot be divided evenly."""
        if num_envs % self.size:
            raise UsageError(
                self.main_only(
                    f"num_envs = {num_envs} does not divide among {self.size} ranks; choose a "
                    "multiple of them"
                )
            )
        size = num_envs // self.size
        return EnvSlice(self.rank * size, size, num_envs)

    def main_only(self, text: str) -> str:
        """Return a message on rank 0, and an empty one elsewhere, so that it is printed once."""
        return text if self.is_main else ""

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, which have one shape."""
        return [tensor]

    def broadcast_from_main(self, work: Callable[[], Any]) -> Any:
        """Call `work` on rank 0 and return its result, plain JSON values, or raise its error."""
        return work()

    def episodes(self, episodes: list[Episode]) -> list[Episode]:
        """Return the games that ended on all ranks, in the order of the ranks."""
        return episodes

    def games(
        self, env_states: list[EnvState], lstm_state: Tensor
    ) -> tuple[list[EnvState], Tensor]:
        """Gather the states of all environments and the LSTM state [N, R].

        No environment state at all if some cannot be saved.
        """
        return env_states, lstm_state

    def largest(self, *numbers: int) -> tuple[int, ...]:
        """Return for each number the largest that a rank has."""
        return numbers

    def wait_for_all(self) -> None:
        """Wait until every rank has come to this point of the start or the end of a run."""

    def require_alike(self, parameters: Iterable[Tensor], update: int) -> None:
        """RunError if the weights of some rank differ from those of rank 0."""

    def close(self) -> None:
        """Leave the group."""


class ConnectedRanks(Ranks):
    """Several ranks, connected by PyTorch's process groups."""

    def __init__(self, device: str, timeout_s: float) -> None:
        """Connect to the others. RunError if not all come in time."""
        import torch.distributed as dist

        # The optimizer would import this later and keep a reference to the group, whose threads
        # would then still run while the process ends.
        import torch.distributed.nn
        from torch.distributed.distributed_c10d import PrefixStore

        self._dist = dist
        self._timeout_s = timeout_s
        limit = timedelta(seconds=timeout_s)
        for name in ("RANK", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"):
            number(name)
        try:
            store, self.rank, self.size = _rendezvous(limit)
            # torchrun keeps the store through a restart, with the addresses of the lost ranks; and
            # one process may connect several times.
            attempt = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
            connection = attempt.add(f"connections of {self.rank}", 1)
            self._store = PrefixStore(f"connection {connection}", attempt)
            dist.init_process_group(
                "gloo",
                store=PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=limit,
            )
        except RuntimeError as error:
            raise RunError(
                f"rank {own_rank()} did not meet the others within {timeout_s:g} s: "
                f"{_first_line(error)}"
            ) from error
        self._on_gpu = None
        if device == "cuda":
            torch.cuda.set_device(own_gpu())
            # Otherwise a thread that notices a lost rank ends the process without a message.
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
            self._on_gpu = dist.new_group(backend="nccl", timeout=limit)
        own = (os.environ.get("GROUP_RANK", "0"), sorted(cores_of_process()))
        all_cores = [json.loads(text) for text in self._gather_bytes(json.dumps(own).encode())]
        self.cores = cores_of_rank(own, all_cores, usable_cores())

    def add(self, tensor: Tensor) -> None:
        with self._lost_rank_errors():
            self._dist.all_reduce(tensor, group=self._on_gpu if tensor.is_cuda else None)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._lost_rank_errors():
            self._dist.all_gather(parts, tensor, group=self._on_gpu if tensor.is_cuda else None)
        return parts

    def broadcast_from_main(self, work: Callable[[], Any]) -> Any:
        message: dict[str, Any] = {}
        if self.is_main:
            try:
                message = {"result": work()}
            except (UsageError, RunError) as error:
                self._gather_bytes(json.dumps({"error": type(error).__name__}).encode())
                raise
        message = json.loads(self._gather_bytes(json.dumps(message).encode())[0])
        if "error" in message:
            raise ERRORS.get(message["error"], UsageError)("")  # rank 0 prints the message
        return message["result"]

    def episodes(self, episodes: list[Episode]) -> list[Episode]:
        texts = self._gather_bytes(json.dumps(episodes).encode())
        return [Episode(*episode) for text in texts for episode in json.loads(text)]

    def games(
        self, env_states: list[EnvState], lstm_state: Tensor
    ) -> tuple[list[EnvState], Tensor]:
        contents = self._gather_bytes(pack_games(env_states, lstm_state))
        parts = [unpack_games(content) for content in contents]
        saved = [env_state for part, _ in parts for env_state in part]
        return saved if all(part for part, _ in parts) else [], torch.cat([s for _, s in parts])

    def largest(self, *numbers: int) -> tuple[int, ...]:
        found = torch.tensor(numbers)
        with self._lost_rank_errors():
            self._dist.all_reduce(found, self._dist.ReduceOp.MAX)
        return tuple(found.tolist())

    def wait_for_all(self) -> None:
        with self._lost_rank_errors(START_S):
            self._dist.monitored_barrier(timeout=timedelta(seconds=START_S))

    def require_alike(self, parameters: Iterable[Tensor], update: int) -> None:
        digest = hashlib.sha256()
        for parameter in parameters:
            content = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(content.numpy().data)
        digests = self._gather_bytes(digest.digest())
        other = [rank for rank, found in enumerate(digests) if found != digests[0]]
        if other:
            raise RunError(
                self.main_only(
                    f"the weights of rank {other[0]} are not those of rank 0 after update "
                    f"{update}; no checkpoint of it was written. Are all ranks of one kind?"
                )
            )

    def close(self) -> None:
        if self._dist.is_initialized():
            self._dist.destroy_process_group()

    def _gather_bytes(self, content: bytes) -> list[bytes]:
        """Return the contents of all ranks, in the order of the ranks."""
        lengths = [int(n) for n in self.gather(torch.tensor([len(content)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(content)] = _tensor(content)
        parts = self.gather(padded)
        return [part.numpy()[:n].tobytes() for part, n in zip(parts, lengths, strict=True)]

    @contextmanager
    def _lost_rank_errors(self, limit_s: float | None = None) -> Iterator[None]:
        """Raise RunError, with the number of the lost rank, for a failed communication."""
        try:
            yield
        except RuntimeError as error:
            raise RunError(self._describe_loss(error, limit_s or self._timeout_s)) from error

    def _describe_loss(self, error: RuntimeError, limit_s: float) -> str:
        """Return a message that names the lost ranks; empty on all ranks but one."""
        # The ranks that wait for this one have to notice at once as well.
        with suppress(RuntimeError):
            self._dist.destroy_process_group()
        present = self._present_ranks()
        if not present:
            return f"rank {self.rank} has lost the others and torchrun: {_first_line(error)}"
        if self.rank != present[0]:
            return ""
        lost = [str(rank) for rank in range(self.size) if rank not in present]
        timed_out = "timed out" in str(error).lower()
        why = f"no answer within {limit_s:g} s" if timed_out else "its process has ended"
        if not lost:
            return f"the connection of the ranks is lost: {_first_line(error)}"
        return f"rank {', '.join(lost)} lost: {why}; the last checkpoint is valid, resume from it"

    def _present_ranks(self) -> list[int]:
        """Return the ranks that still answer, including this one; none if nobody can be asked.

        In a thread: if the network is down, the store neither answers nor fails.
        """
        answer: list[int] = []

        def ask() -> None:
            with suppress(RuntimeError):
                answer.extend(self._roll_call())

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(2 * ROLL_CALL_S)
        return list(answer)

    def _roll_call(self) -> list[int]:
        """Return the ranks that still answer, or at least this one and a lower one.

        A rank that finds a lower one leaves at once, because the lower one prints the message. The
        lowest one, whose process may hold the store, leaves last.
        """
        self._store.set(f"here {self.rank}", "")
        deadline = time.monotonic() + ROLL_CALL_S
        while True:
            present = [r for r in range(self.size) if self._store.check([f"here {r}"])]
            # If one rank is missing, it may only be late.
            over = len(present) == self.size or time.monotonic() > deadline
            if over or present[0] < self.rank:
                return present
            time.sleep(0.05)


@functools.cache
def _rendezvous(limit: timedelta) -> tuple[Any, int, int]:
    """Return the store that the ranks of a job share, and rank and size of this one."""
    from torch.distributed.rendezvous import rendezvous

    found: tuple[Any, int, int] = next(rendezvous("env://", timeout=limit))
    return found


def join(device: str) -> Ranks:
    """Join the ranks of this job: this process alone, unless torchrun has started several.

    UsageError if something else than torchrun has started several: each would train alone.
    """
    if not launched() and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "WORLD_SIZE is set, but not by torchrun, which alone can start several ranks; use it, "
            "or unset WORLD_SIZE"
        )
    if not launched() or number("WORLD_SIZE") == 1:
        return Ranks()
    return ConnectedRanks(device, timeout_s())


def cores_of_rank(
    own: tuple[str, list[int]], of_all: Sequence[tuple[str, list[int]]], usable: int
) -> int:
    """Compute how many cores a rank may use: its own, divided by the ranks that share them.

    own, of_all: node and numbers of the cores of this rank and of each rank.  usable: how many of
    its own it may use at once.
    """
    node, cores = own
    rivals = [other for place, other in of_all if place == node and set(other) & set(cores)]
    return max(1, min(len(cores), usable) // len(rivals))


def pack_games(env_states: Sequence[EnvState], lstm_state: Tensor) -> bytes:
    """Pack games and LSTM state into one message."""
    states = json.dumps([env_state.state for env_state in env_states]).encode()
    tensors = {str(i): torch.from_numpy(game.actions) for i, game in enumerate(env_states)}
    tensors["states"] = _tensor(states)
    tensors["lstm_state"] = lstm_state.cpu().contiguous()
    return safetensors.torch.save(tensors)


def unpack_games(content: bytes) -> tuple[list[EnvState], Tensor]:
    """Return the arguments of `pack_games`."""
    tensors = safetensors.torch.load(content)
    states = json.loads(tensors["states"].numpy().tobytes())
    games = [EnvState(state, tensors[str(i)].numpy()) for i, state in enumerate(states)]
    return games, tensors["lstm_state"]


def _tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
