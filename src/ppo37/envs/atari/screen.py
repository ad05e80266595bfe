"""An Atari engine whose screens are shrunk and stacked by `screen.c`.

The C++ engine spends a sixth of its time on that. The result is the same, bit for bit.

Legend: N environments, K frames in an observation.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...compiled import library

SOURCE = Path(__file__).with_name("screen.c")


class ScreenEngine:
    """An engine for `Atari` with the same interface as `AtariVectorEnv`: ale, reset, step, close.

    engine: returns whole screens, [N, 1, *screen] uint8. Observations: the last K of them, shrunk
    to [N, K, side, side].  UsageError if `screen.c` cannot be compiled or run on this machine.
    """

    def __init__(self, engine: Any, screen: tuple[int, int], side: int, num_frames: int) -> None:
        compiled = screen_library(screen, side)
        self.ale = engine.ale
        self._engine = engine
        self._push = compiled.push
        self._plan = np.empty(compiled.plan_bytes(), np.uint8)
        compiled.make_plan(_pointer(self._plan))
        self._stacks = np.zeros((engine.num_envs, num_frames, side, side), np.uint8)
        self._past_frames = np.zeros(engine.num_envs, np.int64)

    def reset(self, seed: NDArray[np.int64], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Reset the games that `options["reset_mask"]` selects."""
        screens, info = self._engine.reset(seed=seed, options=options)
        which = options["reset_mask"]
        self._new_games(info)
        stacks = self._push_screens(screens, which)
        self._stacks = np.where(which[:, None, None, None], stacks, self._stacks)
        return self._stacks, info

    def step(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        screens, rewards, terminated, truncated, info = self._engine.step(actions)
        is_new = self._new_games(info)
        last = info.pop("final_obs", None)  # the engine has it at the end of a life, too
        if is_new.any():
            info["final_obs"] = self._push_screens(last, np.zeros_like(is_new))
        self._stacks = self._push_screens(screens, is_new)
        return self._stacks, rewards, terminated, truncated, info

    def close(self) -> None:
        self._engine.close()

    def _new_games(self, info: dict[str, Any]) -> NDArray[np.bool_]:
        """Return where a new game has started since the last call."""
        # The frames of a game are added to those of past games when it ends.
        past_frames = info["frame_number"] - info["episode_frame_number"]
        is_new = past_frames != self._past_frames
        self._past_frames = past_frames
        return is_new

    def _push_screens(
        self, screens: NDArray[np.uint8], is_new: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """Return the stacks with these screens added; `is_new` clears what was there before."""
        after = np.empty_like(self._stacks)
        screens = np.ascontiguousarray(screens)
        self._push(
            _pointer(self._plan),
            *self._stacks.shape[:2],
            *map(_pointer, (screens, is_new, self._stacks, after)),
        )
        return after


def screen_library(screen: tuple[int, int], side: int) -> ctypes.CDLL:
    """Compile and load `screen.c` for a screen size; UsageError if that is not possible."""
    return library(SOURCE, needs="avx512vbmi", HEIGHT=screen[0], WIDTH=screen[1], SIDE=side)


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """Return an array's address; the caller must keep the array until it is no longer used."""
    return array.ctypes.data_as(ctypes.c_void_p)
