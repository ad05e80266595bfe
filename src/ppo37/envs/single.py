"""Wrappers of one environment of Gymnasium: its score, and checks of what it returns."""

from typing import Any, NoReturn

import gymnasium
import numpy as np

from ..errors import RunError

Env = gymnasium.Env[Any, Any]


class Scores(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that sums the rewards of each game, below the wrappers of the user.

    ended: the scores of the games that have ended since it was last emptied.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.score, self.ended = 0.0, list[float]()
        self._playing = False

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        self._end()  # a wrapper may end a game before the environment does
        result: Any = self.env.reset(**arguments)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            _refuse(self, "reset", _form(result), "(obs, info), info a dict")
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result: Any = self.env.step(action)
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            wanted = "(obs, reward, terminated, truncated, info), info a dict"
            _refuse(self, "step", _form(result), wanted)
        _, reward, terminated, truncated, _ = result
        if not isinstance(reward, float):
            self._require_number(reward)
        if terminated.__class__ is not bool or truncated.__class__ is not bool:
            self._require_truth(terminated, truncated)
        self.score += float(reward)
        self._playing = True
        if terminated or truncated:
            self._end()
        return result

    def _require_number(self, reward: Any) -> None:
        found = np.asarray(reward)
        if found.shape or found.dtype.kind not in "fiub":
            text = f"a reward {list(found.shape)} {found.dtype}: {str(reward)[:80]}"
            _refuse(self, "step", text, "a number")

    def _require_truth(self, *values: Any) -> None:
        for name, value in zip(("terminated", "truncated"), values, strict=True):
            if not isinstance(value, bool | int | np.bool_ | np.integer):
                _refuse(self, "step", f"{name} of type {type(value).__name__}", "a bool")

    def _end(self) -> None:
        if self._playing:
            self.ended.append(self.score)
        self.score, self._playing = 0.0, False


class Observed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose observations must have the shape and the kind of dtype of its space.

    `SyncVectorEnv` copies them into one array of this dtype.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        space = env.observation_space
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)  # others are refused later

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(**arguments)
        self._check("reset", result[0])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        obs: Any = result[0]
        if not (
            obs.__class__ is np.ndarray and obs.dtype == self._dtype and obs.shape == self._shape
        ):
            self._check("step", obs)
        return result

    def _check(self, method: str, obs: Any) -> None:
        found = np.asarray(obs)
        same = found.dtype == self._dtype
        # Integers in a space of real numbers are harmless; others in a space of bytes are not.
        fits = same or (
            self._dtype != np.uint8 and np.can_cast(found.dtype, self._dtype, "same_kind")
        )
        if found.shape != self._shape or not fits:
            text = f"an observation {list(found.shape)} {found.dtype}"
            if found.dtype == object:
                text = f"an observation of type {type(obs).__name__}"
            wanted = f"{list(self._shape or ())} {self._dtype}, as its observation_space says"
            _refuse(self, method, text, wanted)


def _form(result: Any) -> str:
    """Describe the form of a result of Gymnasium."""
    kind = type(result).__name__
    if not isinstance(result, tuple):
        return f"a {kind}"
    return f"a tuple of {len(result)}, the last a {type(result[-1]).__name__}" if result else kind


def _refuse(env: Env, method: str, found: str, wanted: str) -> NoReturn:
    raise RunError(f"{method} of {env.unwrapped} gave {found}; it has to be {wanted}")
