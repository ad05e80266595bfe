"""Rollout threads: each acts in its own part of the environments.

A thread alternates between computing the policy and waiting for the emulator. With two threads,
one computes while the other waits: every core is busy, threads do not compete for a core, and a
GPU acts for one half of the environments while the other half is emulated. The weights do not
change during a rollout, so the result is the same as acting in all environments at once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

from ..algorithm.rollout import Act, Rollout, collect
from ..envs import EnvState, Episode, VecEnv
from ..errors import UsageError
from .clock import Clock
from .transfer import Stream, page_locked, staged

MOST_THREADS = 2


def split_envs(num_envs: int, divisible: bool, threads: int) -> list[slice]:
    """Divide the environments among rollout threads, in equal parts except for the last.

    divisible: whether they can be divided at all.  threads: CPU threads of the whole process.
    """
    parts = min(MOST_THREADS, threads) if divisible else 1
    size = -(-num_envs // parts)
    return [slice(first, min(first + size, num_envs)) for first in range(0, num_envs, size)]


def emulator_threads(parts: int, threads: int) -> int:
    """Compute the emulator's threads for one of so many parts, with `threads` in all."""
    return max(1, threads // parts)


class RolloutThreads:
    """Collect rollouts of N environments, one thread for each part of them.

    Environments are reset, or restored from `env_states`, each by the thread that steps it. The
    LSTM starts from `lstm_state` [N, R], or from zeros. The last observations are kept between
    rollouts. `clock` counts the seconds in `env` and `act`, averaged over the threads.
    """

    def __init__(
        self,
        parts: Sequence[VecEnv],
        acts: Sequence[Act],
        buffers: Rollout,
        clock: Clock | None = None,
        env_states: Sequence[EnvState] = (),
        lstm_state: Tensor | None = None,
    ) -> None:
        self._clock = clock or Clock()
        if lstm_state is None:
            lstm_state = torch.zeros_like(buffers.lstm_state)  # D33
        self._threads: list[_RolloutThread] = []
        first = 0
        for envs, act in zip(parts, acts, strict=True):
            part = slice(first, first + envs.num_envs)
            self._threads.append(_RolloutThread(envs, act, buffers, lstm_state[part], part))
            first += envs.num_envs
        threads = torch.get_num_threads()
        self._in_each(lambda thread: thread.start(env_states))
        # `start` sets the number of threads for all threads that are created later, too.
        torch.set_num_threads(threads)

    def collect(self, uniforms: Tensor) -> list[Episode]:
        """Fill the buffers with one rollout. Returns the games that ended, by environment.

        The order does not depend on the number of threads or ranks.
        uniforms: [T+1, N, *action_shape] in [0, 1).
        """
        ended = self._in_each(lambda thread: thread.collect(uniforms))
        for thread in self._threads:
            for name, seconds in thread.clock.seconds.items():
                self._clock.add(name, seconds / len(self._threads))
            thread.clock.seconds.clear()
        games = [episode for episodes in ended for episode in episodes]
        return sorted(games, key=lambda game: game.env)

    @property
    def lstm_state(self) -> Tensor:
        """The LSTM state [N, R] of all environments."""
        return torch.cat([thread.lstm_state for thread in self._threads])

    def save(self) -> list[EnvState]:
        """Return the states of all environments; none if some of them cannot be saved."""
        parts = self._in_each(lambda thread: thread.envs.save())
        return [env_state for part in parts for env_state in part] if all(parts) else []

    def close(self) -> None:
        """End the threads; the environments belong to the caller."""
        for thread in self._threads:
            thread.executor.shutdown()

    def _in_each(self, work: Callable[["_RolloutThread"], Any]) -> list[Any]:
        """Do `work` in every thread and wait for all of them, also if one fails."""
        calls = [thread.executor.submit(work, thread) for thread in self._threads]
        wait(calls)
        return [call.result() for call in calls]


class _RolloutThread:
    def __init__(
        self, envs: VecEnv, act: Act, buffers: Rollout, lstm_state: Tensor, part: slice
    ) -> None:
        self.executor = ThreadPoolExecutor(1, "rollout")
        self.clock = Clock()
        self.envs = envs
        self.lstm_state = lstm_state
        self._part = part
        views = {name: buffer[:, part] for name, buffer in buffers._asdict().items()}
        self._buffers = Rollout(**{**views, "lstm_state": buffers.lstm_state[part]})
        self._stream = Stream(lstm_state.device)
        self._act = self.clock.timed("act", self._stream.waited_for(act))
        obs_copy = page_locked(self._buffers.obs[0])
        step = envs.step if obs_copy is None else staged(envs.step, obs_copy)
        self._step = self.clock.timed("env", step)
        self._obs: Any = None

    def start(self, env_states: Sequence[EnvState]) -> None:
        # A few observations are too little work for several threads, and one thread pool too many
        # would make the threads of the update sleep while they wait. PyTorch forgets the number
        # if the thread has never asked for it.
        torch.get_num_threads()
        torch.set_num_threads(1)
        part = list(env_states[self._part])
        self._obs = self._restore(part) if part else self.envs.reset()

    def _restore(self, env_states: list[EnvState]) -> Any:
        try:
            return self.envs.restore(env_states)
        except UsageError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"the saved games do not fit these environments ({type(error).__name__}: {error}); "
                "use --new-games to resume with new games"
            ) from error

    def collect(self, uniforms: Tensor) -> list[Episode]:
        with self._stream.used():
            self._obs, self.lstm_state, episodes = collect(  # D01
                self._step,
                self._act,
                self._buffers,
                self._obs,
                self.lstm_state,
                uniforms[:, self._part],
            )
        return episodes
