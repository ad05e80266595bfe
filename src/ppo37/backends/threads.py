"""Rollouts in lanes: threads side by side, each acting in its own part of the environments.

In a lane, computing the policy and waiting for the emulator alternate; lanes have nothing to wait
for in each other. So every core has work, threads do not quarrel over one, and a GPU acts for one
half of the environments while the other half is emulated. The policy does not change during a
rollout: together lanes do what acting in all environments at once does.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

from ..algorithm.rollout import Act, Rollout, collect
from ..envs import Episode, Moment, VecEnv
from ..errors import UsageError
from .clock import Clock
from .transfer import Stream, page_locked, staged

MOST_LANES = 2


def split(num_envs: int, divisible: bool, threads: int) -> list[slice]:
    """The environments of each lane, for so many threads in all: equal parts, but for the last."""
    lanes = min(MOST_LANES, threads) if divisible else 1
    size = -(-num_envs // lanes)
    return [slice(first, min(first + size, num_envs)) for first in range(0, num_envs, size)]


def emulator_threads(lanes: int, threads: int) -> int:
    """Threads for the environments of one of so many lanes, of so many threads in all."""
    return max(1, threads // lanes)


class Lanes:
    """Collects rollouts of N environments, given in parts, each with what acts in it; the last
    observations stay in here.

    Resets the environments, or brings back `moments`, each part in the thread that steps it; the
    network remembers `memory` [N, R], or nothing yet.
    `clock` counts what a lane spends in `env` and `act`, on average.
    """

    def __init__(
        self, parts: Sequence[VecEnv], acts: Sequence[Act], buffers: Rollout,
        clock: Clock | None = None, moments: Sequence[Moment] = (), memory: Tensor | None = None,
    ) -> None:  # fmt: skip
        self._clock = clock or Clock()
        memory = torch.zeros_like(buffers.memory) if memory is None else memory  # D33
        self._lanes: list[_Lane] = []
        first = 0
        for envs, act in zip(parts, acts, strict=True):
            part = slice(first, first + envs.num_envs)
            self._lanes.append(_Lane(envs, act, buffers, memory[part], part))
            first += envs.num_envs
        threads = torch.get_num_threads()
        self._in_each(lambda lane: lane.start(moments))
        # What a lane sets counts for itself and for all threads to come; those are not lanes.
        torch.set_num_threads(threads)

    def collect(self, uniforms: Tensor) -> list[Episode]:
        """Fill the buffers by one rollout; the games that ended, environment by environment.

        That order does not depend on how many lanes, or ranks, share the work.
        uniforms: [T+1, N, *action_shape] in [0, 1).
        """
        ended = self._in_each(lambda lane: lane.collect(uniforms))
        for lane in self._lanes:
            for name, seconds in lane.clock.seconds.items():
                self._clock.add(name, seconds / len(self._lanes))
            lane.clock.seconds.clear()
        games = [episode for episodes in ended for episode in episodes]
        return sorted(games, key=lambda game: game.env)

    @property
    def memory(self) -> Tensor:
        """What the network remembers of all environments, [N, R]."""
        return torch.cat([lane.memory for lane in self._lanes])

    def save(self) -> list[Moment]:
        """The moments of all environments; none if some cannot be saved."""
        parts = self._in_each(lambda lane: lane.envs.save())
        return [moment for part in parts for moment in part] if all(parts) else []

    def close(self) -> None:
        """End the threads; the environments belong to the caller."""
        for lane in self._lanes:
            lane.thread.shutdown()

    def _in_each(self, work: Callable[["_Lane"], Any]) -> list[Any]:
        """Do something in every lane's thread; no lane is at work when this ends."""
        calls = [lane.thread.submit(work, lane) for lane in self._lanes]
        wait(calls)
        return [call.result() for call in calls]


class _Lane:
    def __init__(
        self, envs: VecEnv, act: Act, buffers: Rollout, memory: Tensor, part: slice
    ) -> None:
        self.thread = ThreadPoolExecutor(1, "lane")
        self.clock = Clock()
        self.envs = envs
        self.memory = memory
        self._part = part
        views = {name: buffer[:, part] for name, buffer in buffers._asdict().items()}
        self._buffers = Rollout(**{**views, "memory": buffers.memory[part]})
        self._stream = Stream(memory.device)
        self._act = self.clock.timed("act", self._stream.waited_for(act))
        place = page_locked(self._buffers.obs[0])
        step = envs.step if place is None else staged(envs.step, place)
        self._step = self.clock.timed("env", step)
        self._obs: Any = None

    def start(self, moments: Sequence[Moment]) -> None:
        # A few observations are no work for more; and helpers of one thread pool too many would
        # make those of the update give up waiting and sleep. PyTorch forgets the number if the
        # thread has never asked for it.
        torch.get_num_threads()
        torch.set_num_threads(1)
        part = list(moments[self._part])
        self._obs = self._restore(part) if part else self.envs.reset()

    def _restore(self, moments: list[Moment]) -> Any:
        try:
            return self.envs.restore(moments)
        except UsageError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"the saved games do not fit these environments ({type(error).__name__}: {error}); "
                "--new-games goes on with new games"
            ) from error

    def collect(self, uniforms: Tensor) -> list[Episode]:
        with self._stream.used():
            self._obs, self.memory, episodes = collect(  # D01
                self._step, self._act, self._buffers, self._obs, self.memory,
                uniforms[:, self._part],
            )  # fmt: skip
        return episodes
