"""Checks of everything that custom environments return, before it is used.

NumPy would cast or broadcast a wrong array silently, and the agent would learn nothing, or
something wrong.

Legend: N environments.
"""

import json
import math
import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import LARGEST_NUMBER, RunError, UsageError
from .contract import (
    MOST_DIMENSIONS,
    EnvFactory,
    EnvState,
    Episode,
    Step,
    VecEnv,
    Wrapper,
    called,
    close_or_warn,
    name_of,
    obs_dtype_of,
)

REQUIRED = ("num_envs", "obs_shape", "action_names", "reset", "step", "close")
"""The attributes that environments must have."""
ADAPT = "to use an environment of Gymnasium, give a class or function without num_envs"
LARGEST_FP32 = float(np.finfo(np.float32).max)
FEW = 256
"""Up to this count of numbers, Python is faster than NumPy."""
REAL = np.typecodes["AllInteger"] + np.typecodes["Float"]
UINT8, BOOL = np.dtype(np.uint8).char, np.dtype(np.bool_).char
"""NumPy types, one letter each."""
TYPE_NAMES = {REAL: "real numbers", UINT8: "uint8", BOOL: "bool"}


def checked(factory: EnvFactory, real_obs: bool = False) -> EnvFactory:
    """Return a factory of the same environments that checks what they return.

    real_obs: whether observations may be any real numbers, as with norm_obs, even if their
    `obs_dtype` is not "float32".  The factory raises UsageError for environments that cannot be
    trained on.
    """

    def make(num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> VecEnv:
        try:
            envs = factory(num_envs, seed, first_env=first_env, index=index)
        except (UsageError, RunError):
            raise
        except (Exception, SystemExit) as error:
            call = "(num_envs, seed, first_env=..., index=...)"
            hint = f"; it is called with {call}" if isinstance(error, TypeError) else ""
            raise UsageError(
                f"{name_of(factory)} cannot be made: {type(error).__name__}: {error}{hint}"
            ) from error
        try:
            return Checked(envs, num_envs, first_env, real_obs)
        except BaseException:
            if hasattr(envs, "close"):
                close_or_warn(envs, type(envs).__name__)
            raise

    return make


class Checked(Wrapper):
    """Environments whose results are checked; RunError if one is not as `Step` describes.

    first_env: the number of the first environment.
    """

    def __init__(self, envs: VecEnv, num_envs: int, first_env: int, real_obs: bool) -> None:
        checked_attributes(envs, num_envs)
        super().__init__(envs)
        self.obs_shape, self.action_names = checked_attributes(envs, num_envs)
        self._env_range = range(first_env, first_env + num_envs)
        self._obs_types = REAL if real_obs or self.obs_dtype == "float32" else UINT8
        self._rows, self._shape = (num_envs,), (num_envs, *self.obs_shape)
        self._count = 0
        # The count at which each environment's game began; unknown for a restored game.
        self._starts = [0.0] * num_envs

    def reset(self) -> NDArray[Any]:
        self._starts = [float(self._count)] * self.num_envs
        found: Any = self._call(self._envs.reset)
        if isinstance(found, tuple):
            self._refuse("reset", "a tuple as in Gymnasium", f"the observations alone; {ADAPT}")
        return self._observations("reset", "observations", found)

    def save(self) -> list[EnvState]:
        """Return the states after a check; RunError if they could not be read again."""
        env_states: list[EnvState] = self._call(self._envs.save)
        if len(env_states) not in (0, self.num_envs):
            self._refuse("save", f"{len(env_states)} states", f"{self.num_envs} or none")
        return [self._env_state(env_state) for env_state in env_states]

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        self._starts = [-math.inf] * self.num_envs
        return self._observations("restore", "observations", self._envs.restore(env_states))

    def step(self, actions: NDArray[Any]) -> Step:
        step: Any = self._call(self._envs.step, actions)
        if not isinstance(step, Step):
            hint = f"; {ADAPT}" if isinstance(step, tuple) and len(step) in (4, 5) else ""
            text = f"a {type(step).__name__}" + (f" of {len(step)}" if hint else "")
            self._refuse("step", text, f"a ppo37.envs.Step{hint}")
        obs = self._observations("step", "obs", step.obs)
        rewards = self._array("step", "rewards", step.rewards, self._rows, REAL)
        dones = self._array("step", "dones", step.dones, self._rows, BOOL)
        truncated = self._array("step", "truncated", step.truncated, self._rows, BOOL)
        final_obs = obs
        if np.count_nonzero(truncated):  # five times faster than `any`
            if (truncated & ~dones).any():
                self._refuse("step", "truncated without dones", "False where dones is False")
            final_obs = self._observations("step", "final_obs", step.final_obs)
        elif np.count_nonzero(dones) and getattr(step.final_obs, "shape", None) == obs.shape:
            final_obs = step.final_obs.astype(obs.dtype, copy=False)  # not learned from
        games = self._games(step.episodes, dones)
        learned = rewards.astype(np.float32, copy=False)
        return Step(obs, learned, dones, truncated, final_obs, games)

    def close(self) -> None:
        close_or_warn(self._envs, self.name)

    def _games(self, episodes: Any, dones: NDArray[np.bool_]) -> list[Episode]:
        """Check that each game ended where `dones` is set, and is not longer than possible."""
        if not isinstance(episodes, list | tuple):
            self._refuse("step", f"episodes of type {type(episodes).__name__}", "a list")
        self._count += 1
        games = [checked_episode(episode, self._env_range) for episode in episodes]
        for game in games:
            env = game.env - self._env_range.start
            if not dones[env]:
                self._refuse("step", f"the game {game} without dones", "where dones is set")
            steps = self._count - self._starts[env]
            if game.length > steps:
                self._refuse(
                    "step",
                    f"the game {game} after only {steps:.0f} steps",
                    "at most that long; environments restart by themselves when a game ends",
                )
            self._starts[env] = self._count
        return games

    def _env_state(self, env_state: Any) -> EnvState:
        """Check a state. Its actions are converted to contiguous uint8 or fp32."""
        if not isinstance(env_state, EnvState) or not isinstance(env_state.state, dict):
            kind = type(env_state).__name__
            self._refuse("save", f"a {kind}", "a ppo37.envs.EnvState with a dict as state")
        try:
            json.dumps(env_state.state, allow_nan=False)
        except (TypeError, ValueError) as error:
            self._refuse("save", f"a state that is not JSON ({error})", "plain values")
        actions = env_state.actions
        wanted = "an array of integers from 0 to 255, or of fp32"
        if not isinstance(actions, np.ndarray):
            self._refuse("save", f"actions of type {type(actions).__name__}", wanted)
        if actions.dtype.kind in "iu" and ((actions >= 0) & (actions < 256)).all():
            actions = actions.astype(np.uint8)
        if actions.dtype not in (np.uint8, np.float32):
            self._refuse("save", f"actions {actions.dtype}", wanted)
        return EnvState(env_state.state, actions.copy(order="C"))

    def _observations(self, method: str, name: str, found: Any) -> NDArray[Any]:
        """Check observations [N, *obs_shape]; real numbers are converted to fp32."""
        array = self._array(method, name, found, self._shape, self._obs_types)
        return array if self._obs_types is UINT8 else array.astype(np.float32, copy=False)

    def _array(
        self, method: str, name: str, found: Any, shape: tuple[int, ...], types: str
    ) -> NDArray[Any]:
        """Check that an array is finite, of this shape and of one of these types.

        Returns it in contiguous memory.
        """
        if not isinstance(found, np.ndarray):
            wanted = f"an array {_described(shape, types)}"
            self._refuse(method, f"{name} of type {type(found).__name__}", wanted)
        if found.shape != shape or found.dtype.char not in types:
            kind = f"{name} {list(found.shape)} {found.dtype}"
            self._refuse(method, kind, _described(shape, types) + _hint(found, shape, types))
        if found.dtype.kind == "f" and not _is_finite(found):
            wanted = f"{list(shape)} finite real numbers"
            self._refuse(method, f"{name} {self._not_finite(found)}", wanted)
        return found if found.flags.carray else np.require(found, requirements=["C", "W"])

    def _not_finite(self, found: NDArray[Any]) -> str:
        """Describe the first number that is not finite in fp32, and its environment."""
        wrong = np.argwhere(~(abs(found) <= LARGEST_FP32))[0]
        value = float(found[tuple(wrong)])
        kind = "too large for fp32" if abs(value) < np.inf else "not finite"
        env = self._env_range.start + int(wrong[0])
        return f"that are {kind} in environment {env} ({value:g})"

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method; RunError that names it and the environments if it fails."""
        return called(method.__name__, self.name, method, *arguments)

    def _refuse(self, method: str, found: str, wanted: str) -> NoReturn:
        raise RunError(f"{method} of {self.name} gave {found}; it has to be {wanted}")


def _is_finite(found: NDArray[Any]) -> bool:
    """Return whether all numbers are finite in fp32."""
    if (
        found.size <= FEW
        and found.dtype == np.float32
        and math.isfinite(sum(found.ravel().tolist()))
    ):
        return True  # a sum of so few finite fp32 numbers cannot overflow in double precision
    return bool(found.min() >= -LARGEST_FP32 and found.max() <= LARGEST_FP32)


def _described(shape: tuple[int, ...], types: str) -> str:
    return f"{list(shape)} {TYPE_NAMES[types]}"


def _hint(found: NDArray[Any], shape: tuple[int, ...], types: str) -> str:
    """Return what is probably wrong with an array."""
    if len(shape) == 4 and found.shape == (shape[0], *shape[2:], shape[1]):
        return ": the channels have to be first"
    if types == UINT8 and found.dtype.kind == "f":
        return ' with values from 0 to 255; for real numbers set obs_dtype = "float32"'
    return " with values from 0 to 255" if types == UINT8 else ""


def checked_attributes(envs: VecEnv, num_envs: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return `obs_shape` and `action_names` of environments.

    UsageError if an attribute is missing or invalid, or if there are not `num_envs` environments.
    """
    kind = type(envs).__name__
    missing = [name for name in REQUIRED if not hasattr(envs, name)]
    if missing:
        raise UsageError(f"make_envs returned a {kind}, which has no {missing[0]}")
    if envs.num_envs != num_envs:
        raise UsageError(f"num_envs of {kind} must be {num_envs}, as asked, not {envs.num_envs}")
    try:
        dtype = obs_dtype_of(envs)
    except TypeError:
        dtype = str(envs.obs_dtype)
    if dtype not in ("uint8", "float32"):
        raise UsageError(f"obs_dtype of {kind} must be uint8 or float32, not {dtype}")
    names, shape = _values(envs.action_names), _values(envs.obs_shape)
    if not all(isinstance(name, str) and name for name in names) or not names:
        raise UsageError(f"action_names of {kind} must be names, not {envs.action_names}")
    if len(set(names)) < len(names):
        raise UsageError(f"action_names of {kind} must be different names, not {names}")
    sizes = [size for size in shape if isinstance(size, int | np.integer) and size > 0]
    whole = len(sizes) == len(shape) and not any(isinstance(size, bool) for size in sizes)
    if not whole or not 1 <= len(shape) <= MOST_DIMENSIONS:
        raise UsageError(
            f"obs_shape of {getattr(envs, 'name', None) or kind} must be 1 to {MOST_DIMENSIONS} "
            f"integers of at least 1, not {envs.obs_shape}"
        )
    return tuple(map(int, sizes)), names


def _values(found: Any) -> tuple[Any, ...]:
    """Return the values of a sequence; none if it is something else."""
    return tuple(found) if isinstance(found, list | tuple | np.ndarray) else ()


def checked_episode(episode: Episode, envs: range) -> Episode:
    """Return an episode with plain numbers that can be logged and saved; RunError if it has none.

    envs: the numbers that its environment may have.
    """
    try:
        env, score, length = episode
        if any(isinstance(part, bool | str) for part in episode):
            raise TypeError("not a number")
        found = Episode(operator.index(env), float(score), operator.index(length))
        fits = 0 <= found.length <= LARGEST_NUMBER and found.env in envs
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits or not abs(found.score) <= LARGEST_NUMBER:  # also refuses nan
        raise RunError(
            f"an environment gave the game {str(episode)[:200]}: it has to be (env, score, length) "
            f"with env from {envs.start} to {envs.stop - 1}, integers, and a score of at most 2^53"
        )
    return found
