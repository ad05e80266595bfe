"""Environments whose observations or rewards are brought to a common scale as they come.

The moments are the agent's and are saved with it. They grow with every step, so that what a step
shows depends on all environments together: such environments are not divided among lanes.

Legend: N environments.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..algorithm.normalization import RunningMeanStd, add_values, discount, normalize, scale
from .contract import EnvState, Step, VecEnv, Wrapper


class NormalizedObservations(Wrapper):
    """Observations [N, *obs_shape] fp32, within +-`clip`; `learn`: the moments grow by each."""

    def __init__(self, envs: VecEnv, env_states: RunningMeanStd, clip: float, learn: bool) -> None:
        super().__init__(envs)
        self._moments, self._clip, self._learn = env_states, clip, learn

    def reset(self) -> NDArray[np.float32]:
        return self._look(self._envs.reset())

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._envs.step(actions)
        return step._replace(obs=self._look(step.obs), final_obs=self._show(step.final_obs))

    def restore(self, env_states: list[EnvState]) -> NDArray[np.float32]:
        return self._show(self._envs.restore(env_states))  # it was counted when it was first seen

    def _look(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        if self._learn:
            add_values(self._moments, torch.from_numpy(obs))
        return self._show(obs)

    def _show(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        return normalize(torch.from_numpy(obs), self._moments, self._clip).numpy()


class ScaledRewards(Wrapper):
    """Rewards in units of the standard deviation of discounted returns, within +-`clip`."""

    def __init__(self, envs: VecEnv, env_states: RunningMeanStd, gamma: float, clip: float) -> None:
        super().__init__(envs)
        self._moments, self._gamma, self._clip = env_states, gamma, clip
        self._returns = torch.zeros(envs.num_envs, dtype=torch.float64)

    def reset(self) -> NDArray[Any]:
        self._returns.zero_()
        return self._envs.reset()

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._envs.step(actions)
        rewards = torch.from_numpy(step.rewards)
        self._returns = discount(self._returns, rewards, self._gamma)
        add_values(self._moments, self._returns)
        self._returns[torch.from_numpy(step.dones)] = 0.0
        return step._replace(rewards=scale(rewards, self._moments, self._clip).numpy())

    def save(self) -> list[EnvState]:
        saved = zip(self._envs.save(), self._returns.tolist(), strict=False)
        return [m._replace(state={**m.state, "discounted_return": r}) for m, r in saved]

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        returns = [m.state["discounted_return"] for m in env_states]
        if not all(isinstance(r, float) and math.isfinite(r) for r in returns):
            raise ValueError("a discounted return is no finite number")
        self._returns = torch.tensor(returns, dtype=torch.float64)
        return self._envs.restore(env_states)
