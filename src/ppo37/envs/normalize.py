"""Wrappers that normalize observations and rewards by running statistics.

The statistics belong to the agent and are saved with it. Every step updates them with all
environments together, so these environments cannot be divided among rollout threads.

Legend: N environments.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..algorithm.normalization import RunningMeanStd, add_values, discount, normalize, scale
from .contract import EnvFactory, EnvState, Step, VecEnv, Wrapper, spaces_of


class NormalizedObservations(Wrapper):
    """Environments with normalized observations [N, *obs_shape] fp32 in [-clip, clip].

    learn: whether every observation updates the statistics.  A mask of legal actions at the end of
    observations stays as it is.
    """

    def __init__(self, envs: VecEnv, statistics: RunningMeanStd, clip: float, learn: bool) -> None:
        super().__init__(envs)
        self._statistics, self._clip, self._learn = statistics, clip, learn
        self.obs_dtype = "float32"
        spaces = spaces_of(envs)
        self._size = math.prod(spaces.view_shape) if spaces.masked else None

    def reset(self) -> NDArray[np.float32]:
        return self._add(self._envs.reset())

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._envs.step(actions)
        obs = self._add(step.obs)
        same = step.final_obs is step.obs  # as `Checked` returns them where no episode has ended
        return step._replace(obs=obs, final_obs=obs if same else self._normalize(step.final_obs))

    def restore(self, env_states: list[EnvState]) -> NDArray[np.float32]:
        # The saved statistics already include this observation.
        return self._normalize(self._envs.restore(env_states))

    def _add(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        """Update the statistics, then normalize."""
        if self._learn:
            add_values(self._statistics, obs if self._size is None else obs[:, : self._size])
        return self._normalize(obs)

    def _normalize(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        return normalize_view(obs, self._statistics, self._clip, self._size)


def normalize_view(
    obs: NDArray[Any], statistics: RunningMeanStd, clip: float, size: int | None
) -> NDArray[np.float32]:
    """Normalize observations [N, ...]. size: of the part before the mask, which is not changed."""
    if size is None:
        return normalize(obs, statistics, clip)
    normalized = normalize(obs[:, :size], statistics, clip)
    return np.concatenate([normalized, obs[:, size:].astype(np.float32)], axis=1)


class SignRewards(Wrapper):
    """Environments whose rewards are clipped to their signs; scores stay as they are."""

    @classmethod
    def around(cls, factory: EnvFactory, *numbers: Any, **keywords: Any) -> "SignRewards":
        """Make environments and wrap them."""
        return cls(factory(*numbers, **keywords))

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._envs.step(actions)
        return step._replace(rewards=np.sign(step.rewards))


class ScaledRewards(Wrapper):
    """Environments whose rewards are divided by the running std of returns, in [-clip, clip]."""

    def __init__(self, envs: VecEnv, statistics: RunningMeanStd, gamma: float, clip: float) -> None:
        super().__init__(envs)
        self._statistics, self._gamma, self._clip = statistics, gamma, clip
        self._returns = np.zeros(envs.num_envs)

    def reset(self) -> NDArray[Any]:
        self._returns[:] = 0.0
        return self._envs.reset()

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._envs.step(actions)
        self._returns = discount(self._returns, step.rewards, self._gamma)
        add_values(self._statistics, self._returns)
        self._returns[step.dones] = 0.0
        return step._replace(rewards=scale(step.rewards, self._statistics, self._clip))

    def save(self) -> list[EnvState]:
        saved = zip(self._envs.save(), self._returns.tolist(), strict=False)
        return [s._replace(state={**s.state, "discounted_return": r}) for s, r in saved]

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        returns = [s.state["discounted_return"] for s in env_states]
        if not all(isinstance(r, float) and math.isfinite(r) for r in returns):
            raise ValueError("a discounted return is not a finite number")
        self._returns = np.array(returns)
        return self._envs.restore(env_states)
