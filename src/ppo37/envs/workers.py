"""Environments in worker processes, for environments that are slow to step.

Each worker makes a part of the environments by the same factory. All workers step at the same
time. Environment i depends on its number alone, so the results are the same bits.

Legend: N environments.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import RunError, UsageError
from . import loading
from .contract import EnvFactory, EnvState, Step, VecEnv, spaces_of

CLOSE_S = 5.0
"""How long a worker may take to close its environments, before it is killed."""
ATTRIBUTES = ("name", "text", "metadata")
"""Optional attributes of environments, shown to the user."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a run to save and stop; all processes of a group may receive them."""
SAFE_PATH, OURS = "PYTHONSAFEPATH", "ppo37"
"""The variable that keeps the working directory from Python's search path, and its value here."""


class _Failure(NamedTuple):
    """An exception in a worker."""

    wrong_input: bool
    text: str
    traceback: str


class Workers(VecEnv):
    """N environments, divided among worker processes in the order of their numbers.

    RunError if a worker fails or ends; the traceback of the worker is its note.
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
        """Start the workers. UsageError if `factory` cannot be pickled."""
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
            target=_serve,
            args=(theirs, factory, envs, seed, index, loading.working_directory()),
            daemon=True,
        )
        try:
            with _starting():
                self._process.start()
        except (AttributeError, TypeError, ValueError) as error:  # what pickle raises
            raise UsageError(
                f"env_workers cannot send the environments to another process: {error}; define "
                "their class or function in a module"
            ) from error
        theirs.close()
        # Also called at the end of Python, which would wait for the process without a limit.
        ends = (self._process, self._pipe)
        self.close = util.Finalize(self, _close, args=ends, exitpriority=0)

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
            numbers = f"{self._envs.start} to {self._envs.stop - 1}"
            error = (
                UsageError(found.text)
                if found.wrong_input
                else RunError(f"the worker of environments {numbers} failed: {found.text}")
            )
            error.add_note(f"In the worker:\n{found.traceback}")  # --debug shows it
            raise error
        return found


def _close(process: SpawnProcess, pipe: Connection) -> None:
    """End a worker: ask it to close its environments, and kill it if it does not."""
    with suppress(OSError):
        pipe.send(("close",))
    process.join(CLOSE_S)
    if process.is_alive():
        process.kill()
        process.join()
    pipe.close()


@contextmanager
def _starting() -> Iterator[None]:
    """Start processes that no file in the working directory and no signal can disturb.

    They import modules before they can remove that directory from their search path or handle
    signals. So a variable removes the directory, and the signals are blocked until `_serve`.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = before or OURS
    try:
        resource_tracker.ensure_running()  # a process of `multiprocessing`, which unblocks signals
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    finally:
        os.environ.pop(SAFE_PATH)
        if before is not None:
            os.environ[SAFE_PATH] = before


def _be_undisturbed() -> None:
    """Ignore the signals that ask the run to stop, because the run decides when its workers end.

    The handler is a function that does nothing: programs that environments start would inherit
    SIG_IGN.
    """
    for each in STOPPING:
        signal.signal(each, lambda _, __: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]  # such programs may be Python


def _serve(
    pipe: Connection,
    factory: EnvFactory,
    envs: range,
    seed: int,
    index: int,
    working_directory: Path | None,
) -> None:
    """Make environments and call the methods that are requested, until `close` or the run ends.

    working_directory: where modules of the user are found, see `loading.find_in`.
    """
    _be_undisturbed()
    if working_directory is not None:
        loading.find_in(working_directory)
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
        except (Exception, SystemExit) as error:
            wrong = isinstance(error, UsageError)
            known = wrong or isinstance(error, RunError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            pipe.send(_Failure(wrong, text, traceback.format_exc()))
