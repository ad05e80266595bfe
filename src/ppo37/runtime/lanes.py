"""Rollouts in lanes: threads side by side, each acting in its own part of the environments.

In a lane, computing the policy and waiting for the emulator alternate; lanes have nothing to wait
for in each other, so that every core has work and no two threads quarrel over one. The policy
does not change during a rollout: together they do what acting in all environments at once does.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ..algorithm.rollout import Act, Rollout, collect
from ..envs import Episode, VecEnv
from .clock import Clock
from .device import usable_cores

NUM_LANES = 2


def lane_threads() -> int:
    """Threads that the policy, and the emulator while that waits, may use in one lane."""
    return max(1, usable_cores() // NUM_LANES)


class Lanes:
    """Collects rollouts of N environments in parts; the last observations stay in here.

    Resets the environments. `clock` counts what a lane spends in `env` and `act`, on average.
    """

    def __init__(
        self, parts: Sequence[VecEnv], act: Act, buffers: Rollout, clock: Clock | None = None
    ) -> None:
        self._clock = clock or Clock()
        self._lanes = []
        first = 0
        for envs in parts:
            self._lanes.append(_Lane(envs, act, buffers, slice(first, first + envs.num_envs)))
            first += envs.num_envs
        # PyTorch counts threads per thread: the number for learning stays as it is.
        self._pool = ThreadPoolExecutor(
            len(parts), "lane", initializer=torch.set_num_threads, initargs=(lane_threads(),)
        )

    def collect(self, uniforms: Tensor) -> list[Episode]:
        """Fill the buffers by one rollout; the games that ended, lane after lane.

        uniforms: [T+1, N] in [0, 1).
        """
        ended = list(self._pool.map(lambda lane: lane.collect(uniforms), self._lanes))
        for lane in self._lanes:
            for name, seconds in lane.clock.seconds.items():
                self._clock.add(name, seconds / len(self._lanes))
            lane.clock.seconds.clear()
        return [episode for episodes in ended for episode in episodes]

    def close(self) -> None:
        """End the threads; the environments belong to the caller."""
        self._pool.shutdown()


class _Lane:
    def __init__(self, envs: VecEnv, act: Act, buffers: Rollout, part: slice) -> None:
        self.clock = Clock()
        self._part = part
        self._buffers = Rollout(*(buffer[:, part] for buffer in buffers))
        self._act = self.clock.timed("act", act)
        self._step = self.clock.timed("env", envs.step)
        self._obs: Any = envs.reset()

    def step(self, actions: Any) -> Any:
        return self._step(actions)

    def collect(self, uniforms: Tensor) -> list[Episode]:
        self._obs, episodes = collect(
            self, self._act, self._buffers, self._obs, uniforms[:, self._part]
        )
        return episodes
