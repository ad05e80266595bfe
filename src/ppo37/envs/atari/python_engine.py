"""An Atari engine in Python, for what ale-py's C++ engine does not offer.

It observes the console's RAM (128 bytes), and sets the mode and the difficulty of a game. It steps
its emulators one after another; the same seeds and actions give the same games.

Legend: N environments, K steps in an observation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .protocols import Protocol
from .reference import GAME_VARIANTS, game_class


class PythonEngine:
    """An engine for `Atari` with the same interface as `AtariVectorEnv`: ale, reset, step, close.

    Observations: the screen or the RAM after each of the last K steps, [N, K, 84, 84] or
    [N, K, 128] uint8.  modes: of each environment; None for the game's own.
    """

    def __init__(
        self,
        game: str,
        protocol: Protocol,
        max_frames: int,
        num_frames: int,
        observation: str,
        modes: Sequence[int | None],
        difficulty: int | None,
    ) -> None:
        self._protocol = protocol
        variant, kind = GAME_VARIANTS["engine"], game_class(observation)
        limits = (max_frames, num_frames, False)
        self._games = [
            kind(game, 0, protocol, variant, *limits, mode, difficulty) for mode in modes
        ]
        self.ale = self

    def get_action_set(self) -> list[Any]:
        return list(self._games[0].actions)

    def reset(self, seed: NDArray[np.int64], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Reset the games that `options["reset_mask"]` selects, each with its seed."""
        chosen = np.flatnonzero(options["reset_mask"])
        for env, game_seed in zip(chosen, seed, strict=True):
            self._games[env].reseed(int(game_seed))
            self._games[env].start_game()
        return self._observe(), self._info()

    def step(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        rewards = np.zeros(len(self._games), np.int32)
        terminated, truncated = np.zeros((2, len(self._games)), np.bool_)
        final_obs = []
        for i, (game, action) in enumerate(zip(self._games, actions, strict=True)):
            rewards[i] = game.step(action)
            life_lost = game.life_lost() and self._protocol.life_ends_episode
            terminated[i] = game.over or life_lost
            truncated[i] = game.ended and not terminated[i]
            final_obs.append(game.stack)
            if game.ended:
                game.start_game()
        info = {**self._info(), "final_obs": np.stack(final_obs)}
        return self._observe(), rewards, terminated, truncated, info

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _observe(self) -> NDArray[np.uint8]:
        return np.stack([game.stack for game in self._games])

    def _info(self) -> dict[str, NDArray[np.int64]]:
        numbers = np.array([game.frame_numbers for game in self._games])
        return {"frame_number": numbers[:, 0], "episode_frame_number": numbers[:, 1]}
