"""The interface of environments: a batch of N that step together and restart by themselves.

Legend: N environments. Arrays are NumPy and belong to the caller once returned.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import RunError, UsageError

MOST_DIMENSIONS = 4
"""The most dimensions of an observation; images have three."""


class Episode(NamedTuple):
    """A whole game that has ended.

    env: its environment, counted from 0 over all environments of a run.  score: the sum of the raw
    rewards, never clipped.  length: agent steps.
    """

    env: int
    score: float
    length: int


class Spaces(NamedTuple):
    """The observations and actions of environments, which determine the shapes of a network.

    obs_dtype: "uint8" or "float32".  action_names: the actions, or the parts of an action.
    action_dims: the number of alternatives of each part; empty for real numbers.  view_shape: the
    shape of an observation without its mask; it differs from `obs_shape` only if observations are
    flat and end with a mask of the legal actions.
    """

    obs_shape: tuple[int, ...]
    obs_dtype: str
    action_space: str
    action_names: tuple[str, ...]
    action_dims: tuple[int, ...]
    view_shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether the network sees images [C, H, W]."""
        return len(self.view_shape) == 3

    @property
    def masked(self) -> bool:
        """Whether the last `sum(action_dims)` numbers of an observation are the mask."""
        return self.view_shape != self.obs_shape


class Step(NamedTuple):
    """The result of one step in every environment.

    An environment whose episode ends restarts in the same step. There `dones` is set, `rewards` is
    the last reward of the old episode, and `obs` is already the first observation of the new one.
    Where only a time limit ended the episode, `truncated` is set as well, and `final_obs` has the
    last observation of the old episode; other rows of `final_obs` are not read. An episode may be
    shorter than a game (a life, for example); `episodes` lists the whole games that ended.
    """

    obs: NDArray[Any]  # [N, *obs_shape] uint8, or fp32 if they are normalized
    rewards: NDArray[np.float32]  # [N], for learning
    dones: NDArray[np.bool_]  # [N]
    truncated: NDArray[np.bool_]  # [N], only where `dones` is set
    final_obs: NDArray[Any]  # [N, *obs_shape]
    episodes: list[Episode]


class EnvState(NamedTuple):
    """The saved state of one environment, from which it can be restored exactly.

    state: plain JSON values.  actions: [n, ...], n >= 0, to be replayed from there.
    """

    state: dict[str, Any]
    actions: NDArray[Any]


Moment = EnvState
"""The former name of `EnvState`."""


class VecEnv(Protocol):
    """N environments that step together and restart by themselves.

    To train on your own, define `num_envs`, `obs_shape`, `action_names`, `reset`, `step` and
    `close`, and call `ppo37.train(config, make_envs=YourEnvs)`; examples/dodge.py is complete.

    An action is an index into `action_names`. If `action_space` is not "discrete", an action has
    one part for each name: an index below its number in `action_dims`, or a real number.
    `obs_dtype` is "float32" for observations of real numbers.  `view_shape`: see `Spaces`; None
    stands for `obs_shape`.

    Training makes several objects, each with some of the environments, and uses each in its own
    thread: they must not share anything that changes.
    """

    num_envs: int
    obs_shape: tuple[int, ...]
    action_names: tuple[str, ...]
    obs_dtype: str = "uint8"
    action_space: str | None = None
    action_dims: tuple[int, ...] | None = None
    view_shape: tuple[int, ...] | None = None

    def reset(self) -> NDArray[Any]:
        """Restart every environment from its seed. Returns the observations [N, *obs_shape]."""

    def step(self, actions: NDArray[Any]) -> Step:
        """Take actions [N] int64, or [N, parts]; ValueError if one of them is invalid."""

    def save(self) -> list[EnvState]:
        """Return the state of each environment, for `restore`.

        The list is empty, as here, if that is not possible: a resumed run then starts new games.
        """
        return []

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        """Continue from N saved states, instead of `reset`. Returns the observations.

        UsageError if a state cannot be restored exactly.
        """
        raise UsageError(f"{type(self).__name__} cannot be restored; use --new-games")

    def close(self) -> None:
        """Release all resources."""


class Wrapper(VecEnv):
    """Environments that forward every call to other ones; subclasses override some methods."""

    def __init__(self, envs: VecEnv) -> None:
        self._envs = envs
        self.num_envs, self.obs_shape = envs.num_envs, envs.obs_shape
        self.name = getattr(envs, "name", type(envs).__name__)
        self.text = getattr(envs, "text", "")
        self.metadata = getattr(envs, "metadata", {})
        self.action_names = envs.action_names
        self.obs_dtype, self.view_shape = obs_dtype_of(envs), getattr(envs, "view_shape", None)
        self.action_space = getattr(envs, "action_space", None)
        self.action_dims = getattr(envs, "action_dims", None)

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


def close_or_warn(envs: Any, name: str) -> None:
    """Close environments; only warn if that fails, because the results of the run are complete."""
    try:
        envs.close()
    except (Exception, SystemExit) as error:
        text = f"close of {name} failed: {type(error).__name__}: {error}"
        warnings.warn(" ".join(text.split()), RuntimeWarning, stacklevel=2)


def called(name: str, env_name: str, method: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Call a method of environments; RunError that names both if it fails with an error of its own.

    name: the name of the method, for the message.
    """
    try:
        return method(*args, **more)
    except (RunError, UsageError):
        raise
    except (Exception, SystemExit) as error:
        raise RunError(f"{name} of {env_name} failed: {type(error).__name__}: {error}") from error


def obs_dtype_of(envs: VecEnv) -> str:
    """Return the dtype of observations: "uint8" or "float32"."""
    return np.dtype(getattr(envs, "obs_dtype", "uint8")).name


def spaces_of(envs: VecEnv, action_space: str = "discrete") -> Spaces:
    """Return the spaces of environments; missing attributes have the defaults of `VecEnv`.

    action_space: used for environments that do not define it.
    """
    obs_shape, names = tuple(envs.obs_shape), tuple(envs.action_names)
    action_space = getattr(envs, "action_space", None) or action_space
    dims = getattr(envs, "action_dims", None)
    if dims is None:
        dims = (len(names),) if action_space == "discrete" else ()
    view_shape = getattr(envs, "view_shape", None) or obs_shape
    return Spaces(
        obs_shape, obs_dtype_of(envs), action_space, names, tuple(dims), tuple(view_shape)
    )


class EnvFactory(Protocol):
    """A class or function that makes N environments.

    Environment i must depend on (seed, index, first_env + i) alone. `index` counts how often the
    environments of a run were seeded anew.
    """

    def __call__(
        self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0
    ) -> VecEnv: ...


def name_of(factory: Any) -> str | None:
    """Return the name of a class or function that makes environments, as module:name.

    None for None, which stands for the built-in environments.
    """
    while isinstance(factory, functools.partial):
        factory = factory.func
    if factory is None:
        return None
    if isinstance(getattr(factory, "name", None), str):  # an `envs.source.EnvSource`
        return str(factory.name)
    named = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{named.__module__}:{named.__qualname__}"


def check_actions(actions: NDArray[np.int64], num_envs: int, num_actions: int) -> None:
    """Raise ValueError for actions that are not valid, naming the first wrong one.

    An action out of range would make the Atari engine hang.
    """
    if actions.shape != (num_envs,):
        raise ValueError(f"expected {num_envs} actions, one per environment; got {actions.shape}")
    wrong = np.flatnonzero((actions < 0) | (actions >= num_actions))
    if len(wrong):
        env = int(wrong[0])
        raise ValueError(
            f"action {int(actions[env])} of environment {env} is not in 0..{num_actions - 1}"
        )
