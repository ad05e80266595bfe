"""Many processes, one run: N ranks, started by torchrun, compute what a single process would.

Each rank owns a contiguous slice of the environments. Draws are addressed by global environment
and minibatches are drawn from the whole batch, so that both are those of one process. Of a
minibatch each rank computes the part that its own samples have in the gradient; the sum over the
ranks is the gradient of the whole, and all ranks take the same step. Files, words and clocks are
rank 0's alone.

What ranks tell each other is tensors and JSON; nothing of it is executed.

Legend: S sequences of L steps in the batch of all ranks, s of them this rank's; M sequences in a
minibatch, m of them this rank's.
"""

import functools
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..algorithm.losses import Coefficients, LossTerms, normalize_advantages
from ..algorithm.update import Batch, Network, gradient_step
from ..envs import Episode, Moment
from ..errors import RunError, UsageError
from .device import cores_of_process, usable_cores

TIMEOUT_S, TIMEOUT_VARIABLE = 60.0, "PPO37_TIMEOUT_S"
"""How long a rank waits for the others before it gives the run up, and what sets it."""
START_S = 1800.0
"""The same at the start of a run, where each rank plays the games of a checkpoint again."""
ROLL_CALL_S = 5.0
CHECK_EVERY = 16
"""Updates between comparisons of the ranks' weights."""
ERRORS: dict[str, type[Exception]] = {"UsageError": UsageError, "RunError": RunError}

Add = Callable[[Tensor], None]
"""Replaces a tensor by its sum over all ranks, by the same bits on each."""
Gather = Callable[[Tensor], list[Tensor]]
"""The tensors of all ranks, which are of one shape, in their order."""


class Share(NamedTuple):
    """The environments [first, first + size) of `total`, which are one rank's."""

    first: int
    size: int
    total: int

    @property
    def envs(self) -> slice:
        """Where they are among all."""
        return slice(self.first, self.first + self.size)

    def find(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the sequences `indices` [M] of the whole batch are this rank's.

        Returns their places in `indices` and in the rank's own batch, both [m].
        """
        envs = indices % self.total - self.first
        here = ((envs >= 0) & (envs < self.size)).nonzero().squeeze(1)
        own = indices[here] // self.total * self.size + envs[here]
        return here, own


def judged_by_all(batch: Batch, share: Share, gather: Gather) -> Batch:
    """A rank's batch, but with the values, advantages and targets [S, L] of all ranks.

    Of these the whole has to be known: the scale of a minibatch's advantages, and how much of
    the targets the values explain.
    """
    parts = gather(torch.stack([batch.values, batch.advantages, batch.targets]))
    blocks = [part.unflatten(1, (-1, share.size)) for part in parts]
    values, advantages, targets = torch.cat(blocks, dim=2).flatten(1, 2).unbind(0)
    return batch._replace(values=values, advantages=advantages, targets=targets)


def part_of(batch: Batch, indices: Tensor, share: Share, norm_adv: bool) -> tuple[Batch, float]:
    """This rank's part of the minibatch `indices` [M] of the whole, and how much of it that is.

    batch: from `judged_by_all`.  Advantages are normalised already, over the whole minibatch.
    Where no sequence is this rank's, one stands in that counts for nothing.
    """
    here, own = share.find(indices)
    weight = len(here) / len(indices)
    if not len(here):
        here = own = indices.new_zeros(1)
    advantages = batch.advantages[indices]
    if norm_adv:
        advantages = normalize_advantages(advantages.flatten()).view_as(advantages)
    judged = {
        "values": batch.values[indices][here],
        "advantages": advantages[here],
        "targets": batch.targets[indices][here],
    }
    alone = {name: part for name, part in batch._asdict().items() if name not in judged}
    return Batch(**{n: part.index_select(0, own) for n, part in alone.items()}, **judged), weight


def summed(
    parameters: Iterable[torch.nn.Parameter], weight: float, add: Add, terms: LossTerms
) -> LossTerms:
    """The terms of a whole minibatch; the gradients become its gradients.

    On each rank they are means over m samples, and `weight` is m / M: the sum over the ranks of
    m / M * mean over m is the mean over M. One message carries all.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    told = torch.stack(tuple(terms)).to(gradients[0].dtype)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), told])
    flat *= weight
    add(flat)  # A2
    *parts, told = flat.split([*(gradient.numel() for gradient in gradients), len(terms)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return LossTerms(*told.unbind())


def shared_train_step(
    network: Network, optimizer: torch.optim.Optimizer, coefficients: Coefficients,
    max_grad_norm: float, share: Share, add: Add,
) -> Callable[[Batch, Tensor], LossTerms]:  # fmt: skip
    """The gradient step of a minibatch that all ranks compute together.

    Takes a batch from `judged_by_all` and indices of the whole batch, the same on all ranks.
    Shapes differ from step to step, because the ranks' parts of a minibatch do.
    """
    normalised = coefficients._replace(norm_adv=False)

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        samples, weight = part_of(batch, indices, share, coefficients.norm_adv)
        reduce = partial(summed, list(network.parameters()), weight, add)
        return gradient_step(network, optimizer, samples, normalised, max_grad_norm, reduce)

    return train_step


def launched() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _told(name: str) -> int:
    """A number that torchrun gives in a variable; UsageError if it is none."""
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise UsageError(f"torchrun sets {name} to a whole number, and here it is {text!r}")
    return int(text)


def own_rank() -> int:
    """The number of this process among those of its job; 0 without torchrun."""
    return _told("RANK") if launched() else 0


def own_gpu() -> int:
    """The GPU of this rank among those of its node; UsageError if there are not enough."""
    rank, gpus = _told("LOCAL_RANK"), torch.cuda.device_count()
    if rank >= gpus:
        raise UsageError(
            f"there is no GPU for rank {rank} of this node, which has {gpus}; use "
            f"--nproc-per-node={gpus}, or --device cpu"
        )
    return rank


def job() -> str | None:
    """What tells this job from any other and stays the same when torchrun restarts it."""
    if not launched():
        return None
    name = os.environ["TORCHELASTIC_RUN_ID"]
    # Without a rendezvous of its own every job is called none; its launcher stays the same.
    return f"{platform.node()}:{os.getppid()}" if name == "none" else name


def restarted() -> bool:
    """Whether torchrun has started this job anew, because a rank was lost."""
    return launched() and _told("TORCHELASTIC_RESTART_COUNT") > 0


def may_restart() -> bool:
    """Whether torchrun is to start this job anew when a rank is lost."""
    return launched() and _told("TORCHELASTIC_MAX_RESTARTS") > 0


class Team:
    """The ranks of a job. One that is alone has nothing to say and starts nothing.

    All ranks must call the same methods in the same order. RunError, with the number of the rank
    that was lost, where one does not answer in time.
    """

    rank, size = 0, 1

    def __init__(self) -> None:
        self.cores = usable_cores()

    @property
    def leads(self) -> bool:
        """Whether files and words are this rank's."""
        return self.rank == 0

    def share(self, num_envs: int) -> Share:
        """The environments of this rank; UsageError if they cannot be shared evenly."""
        if num_envs % self.size:
            raise UsageError(
                self.once(
                    f"num_envs = {num_envs} does not divide among {self.size} ranks; choose a "
                    "multiple of them"
                )
            )
        size = num_envs // self.size
        return Share(self.rank * size, size, num_envs)

    def once(self, text: str) -> str:
        """Words that all ranks find alike, for one of them to say."""
        return text if self.leads else ""

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, which are of one shape."""
        return [tensor]

    def decided(self, work: Callable[[], Any]) -> Any:
        """What rank 0 gets by `work`, which it alone does: plain JSON values, or an error."""
        return work()

    def episodes(self, episodes: list[Episode]) -> list[Episode]:
        """The games that ended on all ranks, in their order."""
        return episodes

    def games(self, moments: list[Moment], memory: Tensor) -> tuple[list[Moment], Tensor]:
        """The moments of all environments (none if some cannot be saved), and the memory [N, R]."""
        return moments, memory

    def agreed(self, stop: int | None, save: bool) -> tuple[int | None, bool]:
        """The signal to stop by and whether to save, if any rank was asked for it."""
        return stop, save

    def wait_for_all(self) -> None:
        """Until every rank has come to this place at the start of a run."""

    def require_alike(self, parameters: Iterable[Tensor], update: int) -> None:
        """RunError if the weights of some rank are not those of rank 0."""

    def close(self) -> None:
        """Leave the team."""


class Connected(Team):
    """A team of several, by PyTorch's process groups."""

    def __init__(self, device: str, timeout_s: float) -> None:
        """Meet the others. RunError if not all come in time."""
        import torch.distributed as dist

        # The optimizer imports it later, and it would keep the group that is there by then, whose
        # threads would be at work while the process ends.
        import torch.distributed.nn
        from torch.distributed.distributed_c10d import PrefixStore

        self._dist = dist
        self._timeout_s = timeout_s
        limit = timedelta(seconds=timeout_s)
        for name in ("RANK", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"):
            _told(name)
        try:
            store, self.rank, self.size = _meeting_place(limit)
            # torchrun keeps it through a restart, with the addresses of those who are gone; and
            # there may be one team after another.
            begun = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
            meeting = begun.add(f"meetings of {self.rank}", 1)
            self._store = PrefixStore(f"meeting {meeting}", begun)
            dist.init_process_group(
                "gloo", store=PrefixStore("group", self._store), rank=self.rank,
                world_size=self.size, timeout=limit,
            )  # fmt: skip
        except RuntimeError as error:
            raise RunError(
                f"rank {own_rank()} did not meet the others within {timeout_s:g} s: "
                f"{_first_line(error)}"
            ) from error
        self._on_gpu = None
        if device == "cuda":
            torch.cuda.set_device(own_gpu())
            # Else a lost rank would be noticed by a thread that ends the process without a word.
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
            self._on_gpu = dist.new_group(backend="nccl", timeout=limit)
        own = (os.environ.get("GROUP_RANK", "0"), sorted(cores_of_process()))
        told = [json.loads(text) for text in self._collected(json.dumps(own).encode())]
        self.cores = share_of_cores(own, told, usable_cores())

    def add(self, tensor: Tensor) -> None:
        with self._answered():
            self._dist.all_reduce(tensor, group=self._on_gpu if tensor.is_cuda else None)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._answered():
            self._dist.all_gather(parts, tensor, group=self._on_gpu if tensor.is_cuda else None)
        return parts

    def decided(self, work: Callable[[], Any]) -> Any:
        said: dict[str, Any] = {}
        if self.leads:
            try:
                said = {"answer": work()}
            except (UsageError, RunError) as error:
                self._collected(json.dumps({"error": type(error).__name__}).encode())
                raise
        said = json.loads(self._collected(json.dumps(said).encode())[0])
        if "error" in said:
            raise ERRORS.get(said["error"], UsageError)("")  # rank 0 has said it
        return said["answer"]

    def episodes(self, episodes: list[Episode]) -> list[Episode]:
        told = self._collected(json.dumps(episodes).encode())
        return [Episode(*episode) for text in told for episode in json.loads(text)]

    def games(self, moments: list[Moment], memory: Tensor) -> tuple[list[Moment], Tensor]:
        parts = [unpacked(content) for content in self._collected(packed(moments, memory))]
        saved = [moment for part, _ in parts for moment in part]
        return saved if all(part for part, _ in parts) else [], torch.cat([m for _, m in parts])

    def agreed(self, stop: int | None, save: bool) -> tuple[int | None, bool]:
        asked = torch.tensor([stop or 0, save])
        with self._answered():
            self._dist.all_reduce(asked, self._dist.ReduceOp.MAX)
        return int(asked[0]) or None, bool(asked[1])

    def wait_for_all(self) -> None:
        with self._answered(START_S):
            self._dist.monitored_barrier(timeout=timedelta(seconds=START_S))

    def require_alike(self, parameters: Iterable[Tensor], update: int) -> None:
        digest = hashlib.sha256()
        for parameter in parameters:
            content = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(content.numpy().data)
        told = self._collected(digest.digest())
        other = [rank for rank, found in enumerate(told) if found != told[0]]
        if other:
            raise RunError(
                self.once(
                    f"the weights of rank {other[0]} are not those of rank 0 after update "
                    f"{update}; no checkpoint of it was written. Are all ranks of one kind?"
                )
            )

    def close(self) -> None:
        if self._dist.is_initialized():
            self._dist.destroy_process_group()

    def _collected(self, content: bytes) -> list[bytes]:
        """What each rank has to say, in the order of the ranks."""
        lengths = [int(n) for n in self.gather(torch.tensor([len(content)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(content)] = _tensor(content)
        parts = self.gather(padded)
        return [part.numpy()[:n].tobytes() for part, n in zip(parts, lengths, strict=True)]

    @contextmanager
    def _answered(self, limit_s: float | None = None) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RunError(self._what_happened(error, limit_s or self._timeout_s)) from error

    def _what_happened(self, error: RuntimeError, limit_s: float) -> str:
        """Who was lost, for one of the others to say."""
        # Who waits for this rank is to notice at once as well.
        with suppress(RuntimeError):
            self._dist.destroy_process_group()
        present = self._present()
        if not present:
            return f"rank {self.rank} has lost the others and torchrun: {_first_line(error)}"
        if self.rank != present[0]:
            return ""
        lost = [str(rank) for rank in range(self.size) if rank not in present]
        timed_out = "timed out" in str(error).lower()
        why = f"no answer within {limit_s:g} s" if timed_out else "its process has ended"
        if not lost:
            return f"the connection of the ranks is lost: {_first_line(error)}"
        return f"rank {', '.join(lost)} lost: {why}; the last checkpoint is valid, go on from it"

    def _present(self) -> list[int]:
        """The ranks that still answer, this one among them; none if nobody can be asked.

        In a thread: where a cable is pulled, the store neither answers nor gives up.
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
        """The ranks that still answer, this one among them: at least those that matter to it.

        Who finds a rank before its own has nothing to say and leaves at once; that one, in whose
        process the store may be, leaves last.
        """
        self._store.set(f"here {self.rank}", "")
        deadline = time.monotonic() + ROLL_CALL_S
        while True:
            present = [r for r in range(self.size) if self._store.check([f"here {r}"])]
            # All but one is no reason to stop: the others may need a moment.
            over = len(present) == self.size or time.monotonic() > deadline
            if over or present[0] < self.rank:
                return present
            time.sleep(0.05)


@functools.cache
def _meeting_place(limit: timedelta) -> tuple[Any, int, int]:
    """Where the ranks of a job leave word for each other; rank and size of this one."""
    from torch.distributed.rendezvous import rendezvous

    found: tuple[Any, int, int] = next(rendezvous("env://", timeout=limit))
    return found


def join(device: str) -> Team:
    """The team of this process: alone, unless torchrun has started several.

    UsageError for a process that something else has made one of several: each would be alone.
    """
    if not launched() and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "WORLD_SIZE is set, but not by torchrun, which alone can start several ranks; use it, "
            "or unset WORLD_SIZE"
        )
    if not launched() or _told("WORLD_SIZE") == 1:
        return Team()
    return Connected(device, timeout_s())


def timeout_s() -> float:
    """How long ranks wait for each other; UsageError if it is set to what is no time."""
    text = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT_S))
    with suppress(ValueError):
        if 1 <= float(text) <= 86400:
            return float(text)
    raise UsageError(
        f"{TIMEOUT_VARIABLE} must be a number of seconds from 1 to 86400, not {text!r}"
    )


def share_of_cores(
    own: tuple[str, list[int]], told: Sequence[tuple[str, list[int]]], usable: int
) -> int:
    """How many cores a rank may use: its own, divided by the ranks that use some of them as well.

    Each rank, this one among them, tells its node and the numbers of its cores.  usable: how many
    of its own may be used at once.
    """
    node, cores = own
    rivals = [other for place, other in told if place == node and set(other) & set(cores)]
    return max(1, min(len(cores), usable) // len(rivals))


def packed(moments: Sequence[Moment], memory: Tensor) -> bytes:
    """Games and memory as one message."""
    states = json.dumps([moment.state for moment in moments]).encode()
    tensors = {str(i): torch.from_numpy(moment.actions) for i, moment in enumerate(moments)}
    tensors["states"] = _tensor(states)
    tensors["memory"] = memory.cpu().contiguous()
    return safetensors.torch.save(tensors)


def unpacked(content: bytes) -> tuple[list[Moment], Tensor]:
    """What `packed` was given."""
    tensors = safetensors.torch.load(content)
    states = json.loads(tensors["states"].numpy().tobytes())
    games = [Moment(state, tensors[str(i)].numpy()) for i, state in enumerate(states)]
    return games, tensors["memory"]


def _tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
