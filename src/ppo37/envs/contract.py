"""What an environment must offer to be trained on: a fixed batch that restarts itself.

Legend: N environments. Arrays are NumPy and belong to the caller once returned.
"""

import functools
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

MOST_DIMENSIONS = 4
"""Of an observation; images have three."""


class Episode(NamedTuple):
    """One whole game: `env` is its environment (counted over all parts of a run), `length`
    counts agent steps, and `score` is the sum of the raw rewards, never clipped."""

    env: int
    score: float
    length: int


class Step(NamedTuple):
    """What one step in every environment gave.

    Where `dones` is set, the learning episode ended with this step and `obs` already shows the
    next one; the reward belongs to the step. `truncated` marks those of them that only a time
    limit ended: there `final_obs` [N, *obs_shape] holds the last observation (its other rows
    mean nothing). `episodes` lists the whole games that ended.
    """

    obs: NDArray[Any]  # [N, *obs_shape] uint8, or fp32 where they are normalised
    rewards: NDArray[np.float32]  # [N], what is learned from
    dones: NDArray[np.bool_]  # [N]
    truncated: NDArray[np.bool_]  # [N], implies done
    final_obs: NDArray[Any]
    episodes: list[Episode]


class EnvState(NamedTuple):
    """What one environment can be brought back from, exactly.

    `state` holds plain JSON values; `actions` [n, ...], n >= 0, were played since a beginning
    that `state` tells of.
    """

    state: dict[str, Any]
    actions: NDArray[Any]


class VecEnv(Protocol):
    """N environments that step together and restart themselves.

    An action is the number of one of `action_names`; or else it has as many parts, each a choice
    or a real number, as the setting `action_space` says.

    Training makes several, each with a part of the environments, and resets and steps each in a
    thread of its own: they must not share anything that they change.
    """

    num_envs: int
    obs_shape: tuple[int, ...]
    action_names: tuple[str, ...]

    def reset(self) -> NDArray[Any]:
        """Start every environment anew from its seed; the first observations [N, *obs_shape]."""
        ...

    def step(self, actions: NDArray[Any]) -> Step:
        """One step with actions [N] int64, or [N, parts]; ValueError if they cannot be taken."""
        ...

    def save(self) -> list[EnvState]:
        """The moment of each environment, for `restore`.

        Empty, as here, where that cannot be done: then a run that goes on begins new games.
        """
        return []

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        """Instead of `reset`: the observations [N, *obs_shape] of N saved env_states.

        UsageError where the environments are not what they were.
        """
        raise UsageError(f"{type(self).__name__} cannot be restored; use --new-games")

    def close(self) -> None:
        """Free what the environments hold."""
        ...


class Wrapper(VecEnv):
    """All that stays as it is in the environments inside."""

    def __init__(self, envs: VecEnv) -> None:
        self._envs = envs
        self.num_envs, self.obs_shape = envs.num_envs, envs.obs_shape
        self.action_names = envs.action_names

    def reset(self) -> NDArray[Any]:
        return self._envs.reset()

    def step(self, actions: NDArray[Any]) -> Step:
        return self._envs.step(actions)

    def save(self) -> list[EnvState]:
        return self._envs.save()

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        return self._envs.restore(env_states)

    def close(self) -> None:
        self._envs.close()


class EnvFactory(Protocol):
    """Makes N environments, the i-th seeded by (seed, index, first_env + i) alone; `index`
    counts the seedings within one run."""

    def __call__(
        self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0
    ) -> VecEnv: ...


def name_of(factory: Any) -> str | None:
    """Name the class or function that makes environments, as module:name; None for ours."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    if factory is None:
        return None
    named = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{named.__module__}:{named.__qualname__}"


def check_actions(actions: NDArray[np.int64], num_envs: int, num_actions: int) -> None:
    """Refuse actions that an environment could not take, naming the first culprit.

    An action out of range would make the Atari engine wait for ever.
    """
    if actions.shape != (num_envs,):
        raise ValueError(f"expected {num_envs} actions, one per environment; got {actions.shape}")
    wrong = np.flatnonzero((actions < 0) | (actions >= num_actions))
    if len(wrong):
        env = int(wrong[0])
        raise ValueError(
            f"action {int(actions[env])} of environment {env} is not in 0..{num_actions - 1}"
        )
