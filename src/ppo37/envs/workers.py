"""Environments in worker processes, for environments that are slow to step.

Each worker makes a part of the environments, by the same factory, and steps them while the others
step theirs. Environment i depends on its number alone, so the results are the same bits.

Legend: N environments.
"""

import multiprocessing
import signal
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import RunError, UsageError
from .contract import EnvFactory, EnvState, Step, VecEnv, spaces_of

CLOSE_S = 5.0
"""How long a worker may take to close its environments, before it is killed."""
ATTRIBUTES = ("name", "text", "metadata")
"""Optional attributes of environments that are for the user."""


class _Failure(NamedTuple):
    """An exception in a worker."""

    wrong_input: bool
    text: str
    traceback: str


class Workers(VecEnv):
    """N environments, divided among worker processes in the order of their numbers.

    RunError if a worker fails or ends; its message has the traceback of the worker.
    """

    def __init__(
        self,
        factory: EnvFactory,
        num_workers: int,
        num_envs: int,
        seed: int,
        *,
        first_env: int = 0,
        index: int = 0,
    ) -> None:
        """Start the workers. factory: can be pickled; UsageError if not."""
        self.num_envs = num_envs
        self._workers: list[_Worker] = []
        numbers = np.array_split(np.arange(num_envs), min(num_workers, num_envs))
        try:
            for part in numbers:
                envs = range(first_env + int(part[0]), first_env + int(part[-1]) + 1)
                self._workers.append(_Worker(factory, envs, seed, index, int(part[0])))
            found = [worker.receive() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        spaces, attributes = found[0]
        self.obs_shape, self.obs_dtype, self.action_space = spaces[:3]
        self.action_names, self.action_dims, self.view_shape = spaces[3:]
        for name, value in attributes.items():
            setattr(self, name, value)

    def reset(self) -> NDArray[Any]:
        return np.concatenate(self._in_each("reset"))

    def step(self, actions: NDArray[Any]) -> Step:
        steps = self._in_each("step", actions)
        obs, rewards, dones, truncated, final_obs = (
            np.concatenate([step[part] for step in steps]) for part in range(5)
        )
        episodes = [episode for step in steps for episode in step.episodes]
        return Step(obs, rewards, dones, truncated, final_obs, episodes)

    def save(self) -> list[EnvState]:
        parts = self._in_each("save")
        return [state for part in parts for state in part] if all(parts) else []

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        return np.concatenate(self._in_each("restore", env_states))

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _in_each(self, method: str, values: Any = None) -> list[Any]:
        """Call a method in every worker, with its part of the values; wait for all."""
        for worker in self._workers:
            worker.send(method, *([] if values is None else [values[worker.part]]))
        return [worker.receive() for worker in self._workers]


class _Worker:
    """A process that has some of the environments."""

    def __init__(self, factory: EnvFactory, envs: range, seed: int, index: int, first: int) -> None:
        context = multiprocessing.get_context("spawn")  # threads make fork unsafe
        self.part = slice(first, first + len(envs))
        self._envs = envs
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, factory, envs, seed, index), daemon=True
        )
        try:
            self._process.start()
        except (AttributeError, TypeError, ValueError) as error:  # what pickle raises
            raise UsageError(
                f"env_workers cannot send the environments to another process: {error}; define "
                "their class or function in a module"
            ) from error
        theirs.close()

    def send(self, *call: Any) -> None:
        with suppress(OSError):  # `receive` tells why it has ended
            self._pipe.send(call)

    def receive(self) -> Any:
        try:
            found = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(CLOSE_S)
            code = self._process.exitcode
            raise RunError(
                f"the worker of environments {self._envs.start} to {self._envs.stop - 1} has ended "
                f"with exit code {code}"
            ) from None
        if isinstance(found, _Failure):
            if found.wrong_input:
                raise UsageError(found.text)
            raise RunError(
                f"the worker of environments {self._envs.start} to {self._envs.stop - 1} failed: "
                f"{found.text}\n{found.traceback}"
            )
        return found

    def close(self) -> None:
        self.send("close")
        self._process.join(CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, factory: EnvFactory, envs: range, seed: int, index: int) -> None:
    """Make environments and call their methods as asked, until `close` or the end of the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides when to stop
    with suppress(EOFError, OSError):
        try:
            made = factory(len(envs), seed, first_env=envs.start, index=index)
            attributes = {name: getattr(made, name, "") for name in ATTRIBUTES}
            pipe.send((spaces_of(made), attributes))
            while (call := pipe.recv())[0] != "close":
                pipe.send(getattr(made, call[0])(*call[1:]))
            made.close()
        except (EOFError, OSError):
            raise
        except Exception as error:
            text = str(error) if isinstance(error, (UsageError, RunError)) else repr(error)
            wrong = isinstance(error, UsageError)
            pipe.send(_Failure(wrong, text, traceback.format_exc()))
