"""Environments of one's own, with all that they give looked at before it is learned from.

What is not as the contract says would else be cast or broadcast without a word, and nothing be
learned, or something else.

Legend: N environments.
"""

import json
import operator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import LARGEST_NUMBER, RunError, UsageError
from .contract import MOST_DIMENSIONS, EnvFactory, EnvState, Episode, Step, VecEnv, Wrapper

OFFERED = ("num_envs", "obs_shape", "action_names", "reset", "step", "close")
"""What environments must have at least."""
NUMBERS = np.typecodes["AllInteger"] + np.typecodes["Float"]
BYTES, TRUTHS = np.dtype(np.uint8).char, np.dtype(np.bool_).char
"""Types of NumPy, a letter for each."""


def checked(factory: EnvFactory, numbers: bool = False) -> EnvFactory:
    """Make what `factory` makes, and look at what these environments offer and give.

    numbers: whether observations may be of any real numbers, as where they are normalised;
    otherwise they are bytes.  UsageError, when environments are made, for what cannot be trained
    on.
    """

    def make(num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> VecEnv:
        envs = factory(num_envs, seed, first_env=first_env, index=index)
        try:
            return Checked(envs, num_envs, first_env, numbers)
        except BaseException:
            if hasattr(envs, "close"):
                envs.close()
            raise

    return make


class Checked(Wrapper):
    """Environments, of which the first has the number `first_env`; RunError for a step that is not
    as `Step` says."""

    def __init__(self, envs: VecEnv, num_envs: int, first_env: int, numbers: bool) -> None:
        self._envs = envs
        self.num_envs = num_envs
        self.obs_shape, self.action_names = require_offered(envs, num_envs)
        self._envs_here = range(first_env, first_env + num_envs)
        self._numbers = numbers
        # Steps of the game that each environment plays; those of a restored game are not known.
        self._steps = np.zeros(num_envs)

    def reset(self) -> NDArray[Any]:
        self._steps[:] = 0
        return self._observations("reset", "observations", self._envs.reset())

    def save(self) -> list[EnvState]:
        """Look at the moments before they are written; RunError for what could not be read."""
        env_states = self._envs.save()
        if len(env_states) not in (0, self.num_envs):
            self._refuse("save", f"{len(env_states)} moments", f"{self.num_envs} or none")
        return [self._moment(moment) for moment in env_states]

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        self._steps[:] = np.inf
        return self._observations("restore", "observations", self._envs.restore(env_states))

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._envs.step(actions)
        if not isinstance(step, Step):
            self._refuse("step", f"a {type(step).__name__}", "a ppo37.envs.Step")
        each = (self.num_envs,)
        obs = self._observations("step", "obs", step.obs)
        rewards = self._array("step", "rewards", step.rewards, each, NUMBERS)
        dones = self._array("step", "dones", step.dones, each, TRUTHS)
        truncated = self._array("step", "truncated", step.truncated, each, TRUTHS)
        if (truncated & ~dones).any():
            self._refuse("step", "truncated without dones", "only what ended can be truncated")
        final_obs = obs
        if truncated.any():
            final_obs = self._observations("step", "final_obs", step.final_obs)
        return Step(
            obs,
            rewards.astype(np.float32),
            dones,
            truncated,
            final_obs,
            self._games(step.episodes, dones),
        )

    def _games(self, episodes: Any, dones: NDArray[np.bool_]) -> list[Episode]:
        """Check that each game ended where `dones` says so, and after enough steps."""
        if not isinstance(episodes, list | tuple):
            self._refuse("step", f"episodes of type {type(episodes).__name__}", "a list")
        self._steps += 1
        games = [sound(episode, self._envs_here) for episode in episodes]
        for game in games:
            here = game.env - self._envs_here.start
            if not dones[here]:
                self._refuse("step", f"the game {game} without dones", "where dones is set")
            if game.length > self._steps[here]:
                self._refuse(
                    "step",
                    f"the game {game} {self._steps[here]:.0f} steps after the one before",
                    "of no more steps; after a game has ended the next one begins by itself",
                )
            self._steps[here] = 0
        return games

    def _moment(self, moment: Any) -> EnvState:
        """Check a moment; its actions come back as bytes or fp32, in one piece of memory."""
        if not isinstance(moment, EnvState) or not isinstance(moment.state, dict):
            self._refuse("save", f"a {type(moment).__name__}", "a EnvState with a dict as state")
        try:
            json.dumps(moment.state, allow_nan=False)
        except (TypeError, ValueError) as error:
            self._refuse("save", f"a state that JSON cannot hold ({error})", "plain values")
        actions = moment.actions
        wanted = "an array of whole numbers from 0 to 255, or of fp32"
        if not isinstance(actions, np.ndarray):
            self._refuse("save", f"actions of type {type(actions).__name__}", wanted)
        if actions.dtype.kind in "iu" and ((actions >= 0) & (actions < 256)).all():
            actions = actions.astype(np.uint8)
        if actions.dtype not in (np.uint8, np.float32):
            self._refuse("save", f"actions {actions.dtype}", wanted)
        return EnvState(moment.state, actions.copy(order="C"))

    def _observations(self, method: str, what: str, found: Any) -> NDArray[Any]:
        """Check observations [N, *obs_shape]; they come back as bytes or fp32."""
        shape = (self.num_envs, *self.obs_shape)
        if not self._numbers:
            return self._array(method, what, found, shape, BYTES)
        numbers = self._array(method, what, found, shape, NUMBERS)
        return numbers.astype(np.float32, copy=False)

    def _array(
        self,
        method: str,
        what: str,
        found: Any,
        shape: tuple[int, ...],
        types: str,
    ) -> NDArray[Any]:
        """Check that an array is finite, of this shape and of one of these types; it comes back in
        one piece of memory."""
        names = {NUMBERS: "real numbers", BYTES: "uint8", TRUTHS: "bool"}
        wanted = f"{list(shape)} {names[types]}"
        if not isinstance(found, np.ndarray):
            self._refuse(method, f"{what} of type {type(found).__name__}", f"an array {wanted}")
        if found.shape != shape or found.dtype.char not in types:
            hint = " with values from 0 to 255" if types == BYTES else ""
            self._refuse(method, f"{what} {list(found.shape)} {found.dtype}", wanted + hint)
        if found.dtype.kind == "f" and not (abs(found) <= np.finfo(np.float32).max).all():
            self._refuse(method, f"{what} that are not all finite in fp32", wanted)
        return np.require(found, requirements=["C", "W"])

    def _refuse(self, method: str, found: str, wanted: str) -> NoReturn:
        kind = type(self._envs).__name__
        raise RunError(f"{method} of {kind} gave {found}; it has to be {wanted}")


def require_offered(envs: VecEnv, num_envs: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Look at what environments say of themselves; their `obs_shape` and `action_names`.

    UsageError unless they are as many as they should be, and say in a usable way what they show and
    what can be done.
    """
    kind = type(envs).__name__
    missing = [name for name in OFFERED if not hasattr(envs, name)]
    if missing:
        raise UsageError(f"the environments made are a {kind}, which has no {missing[0]}")
    if envs.num_envs != num_envs:
        raise UsageError(f"num_envs of {kind} must be {num_envs}, as asked, not {envs.num_envs}")
    names, shape = _values(envs.action_names), _values(envs.obs_shape)
    if not all(isinstance(name, str) and name for name in names) or not names:
        raise UsageError(f"action_names of {kind} must be names, not {envs.action_names}")
    if len(set(names)) < len(names):
        raise UsageError(f"action_names of {kind} must be different names, not {names}")
    sizes = [size for size in shape if isinstance(size, int | np.integer) and size > 0]
    whole = len(sizes) == len(shape) and not any(isinstance(size, bool) for size in sizes)
    if not whole or not 1 <= len(shape) <= MOST_DIMENSIONS:
        raise UsageError(
            f"obs_shape of {kind} must be 1 to {MOST_DIMENSIONS} sizes of at least 1, not "
            f"{envs.obs_shape}"
        )
    return tuple(map(int, sizes)), names


def _values(found: Any) -> tuple[Any, ...]:
    """Return the values of a sequence; none if it is something else."""
    return tuple(found) if isinstance(found, list | tuple | np.ndarray) else ()


def sound(episode: Episode, envs: range) -> Episode:
    """Give a game that ended in numbers that can be logged and saved; RunError if it has others.

    envs: the numbers that its environment can have.
    """
    try:
        env, score, length = episode
        if any(isinstance(part, bool | str) for part in episode):
            raise TypeError("no number")
        found = Episode(operator.index(env), float(score), operator.index(length))
        fits = 0 <= found.length <= LARGEST_NUMBER and found.env in envs
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits or not abs(found.score) <= LARGEST_NUMBER:  # not so nan
        raise RunError(
            f"an environment gave the game {str(episode)[:200]}: it has to be (env, score, length) "
            f"with env from {envs.start} to {envs.stop - 1}, a score of at most 2^53, and whole "
            "numbers"
        )
    return found
