"""Environments of one's own, with all that they give looked at before it is learned from.

What is not as the contract says would else be cast or broadcast without a word, and nothing be
learned, or something else.

Legend: N environments.
"""

import operator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import LARGEST_NUMBER, RunError, UsageError
from .contract import MOST_DIMENSIONS, EnvFactory, Episode, Moment, Step, VecEnv, Wrapper

NUMBERS, BYTES, TRUTHS = "fiu", "u", "b"
"""Kinds of NumPy's types."""


def checked(factory: EnvFactory, numbers: bool = False) -> EnvFactory:
    """Make what `factory` makes, and look at what these environments offer and give.

    numbers: whether observations may be of any real numbers, as where they are normalised;
    otherwise they are bytes.  UsageError, when environments are made, for what cannot be trained
    on.
    """

    def make(num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> VecEnv:
        envs = factory(num_envs, seed, first_env=first_env, index=index)
        try:
            require_offered(envs, num_envs)
            return Checked(envs, first_env, numbers)
        except BaseException:
            envs.close()
            raise

    return make


class Checked(Wrapper):
    """Environments, of which the first has the number `first_env`; RunError for a step that is not
    as `Step` says."""

    def __init__(self, envs: VecEnv, first_env: int, numbers: bool) -> None:
        super().__init__(envs)
        self._envs_here = range(first_env, first_env + self.num_envs)
        self._numbers = numbers

    def reset(self) -> NDArray[Any]:
        return self._observations("reset", "observations", self._envs.reset())

    def restore(self, moments: list[Moment]) -> NDArray[Any]:
        return self._observations("restore", "observations", self._envs.restore(moments))

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
        return Step(obs, rewards.astype(np.float32), dones, truncated, final_obs,
                    [sound(episode, self._envs_here) for episode in step.episodes])  # fmt: skip

    def _observations(self, method: str, what: str, found: Any) -> NDArray[Any]:
        """Observations [N, *obs_shape] in one piece, as bytes or fp32."""
        shape = (self.num_envs, *self.obs_shape)
        if not self._numbers:
            return self._array(method, what, found, shape, BYTES, "uint8")
        numbers = self._array(method, what, found, shape, NUMBERS)
        return numbers.astype(np.float32, copy=False)

    def _array(
        self,
        method: str,
        what: str,
        found: Any,
        shape: tuple[int, ...],
        kinds: str,
        dtype: str = "",
    ) -> NDArray[Any]:
        """An array of this shape and of such a type, finite and in one piece of memory."""
        names = {NUMBERS: "real numbers", BYTES: "uint8", TRUTHS: "bool"}
        wanted = f"{list(shape)} {names[kinds]}"
        if not isinstance(found, np.ndarray):
            self._refuse(method, f"{what} of type {type(found).__name__}", f"an array {wanted}")
        right = found.dtype.kind in kinds and dtype in ("", found.dtype.name)
        if found.shape != shape or not right:
            self._refuse(method, f"{what} {list(found.shape)} {found.dtype}", wanted)
        if found.dtype.kind == "f" and not (abs(found) <= np.finfo(np.float32).max).all():
            self._refuse(method, f"{what} that are not all finite in fp32", wanted)
        return np.require(found, requirements=["C", "W"])

    def _refuse(self, method: str, found: str, wanted: str) -> NoReturn:
        kind = type(self._envs).__name__
        raise RunError(f"{method} of {kind} gave {found}; it has to be {wanted}")


def require_offered(envs: VecEnv, num_envs: int) -> None:
    """UsageError unless environments are as many as they should be, and say in a usable way what
    they show and what can be done."""
    kind = type(envs).__name__
    if envs.num_envs != num_envs:
        raise UsageError(f"num_envs of {kind} must be {num_envs}, as asked, not {envs.num_envs}")
    names, shape = tuple(envs.action_names), tuple(envs.obs_shape)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"action_names of {kind} must be names, not {names}")
    whole = all(isinstance(size, int | np.integer) and size > 0 for size in shape)
    if not whole or not 1 <= len(shape) <= MOST_DIMENSIONS:
        raise UsageError(
            f"obs_shape of {kind} must be 1 to {MOST_DIMENSIONS} sizes of at least 1, not {shape}"
        )


def sound(episode: Episode, envs: range) -> Episode:
    """Give a game that ended in numbers that can be logged and saved; RunError if it has others.

    envs: the numbers that its environment can have.
    """
    try:
        env, score, length = episode
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
