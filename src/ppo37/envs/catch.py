"""Catch: a small pixel game that needs no ROM and is learned in seconds.

A ball falls down a board of 6 x 6 cells, one cell per step. The paddle on the lowest row moves
left, stays or moves right. Every ball that reaches the lowest row gives one point, caught or not.
A miss ends the game, as does the tenth ball. So rewards are the same for good and bad play, and an
agent that ignores the ends of episodes cannot learn the game.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..randomness import GAMES, generator
from .contract import EnvState, Episode, Step, VecEnv, check_actions

CELLS = 6
CELL_PIXELS = 6
MAX_BALLS = 10
SIDE = CELLS * CELL_PIXELS
FPS = 15
"""Steps per second of a video, as many as an Atari game has."""


class Catch(VecEnv):
    """N games of catch; see `contract.VecEnv`. The highest score is `MAX_BALLS`."""

    obs_shape: tuple[int, ...] = (1, SIDE, SIDE)
    action_names: tuple[str, ...] = ("LEFT", "STAY", "RIGHT")

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        self.num_envs = num_envs
        self._first_env = first_env
        self._seeding = (seed, index)
        self._generators: list[np.random.Generator] = []
        self._rows = np.arange(num_envs)
        self._paddle = np.zeros(num_envs, np.int64)
        self._ball = np.zeros((num_envs, 2), np.int64)  # row, column
        self._caught = np.zeros(num_envs, np.int64)
        self._length = np.zeros(num_envs, np.int64)
        self._moved = np.zeros(num_envs, np.int64)

    def reset(self) -> NDArray[np.uint8]:
        seed, index = self._seeding
        numbers = range(self._first_env, self._first_env + self.num_envs)
        self._generators = [generator(seed, GAMES, index, env) for env in numbers]
        self._start(np.ones(self.num_envs, np.bool_))
        return self._draw()

    def step(self, actions: NDArray[np.int64]) -> Step:
        check_actions(actions, self.num_envs, len(self.action_names))
        self._moved = actions
        self._paddle = np.clip(self._paddle + actions - 1, 0, CELLS - 1)
        self._ball[:, 0] += 1
        self._length += 1
        landed = self._ball[:, 0] == CELLS - 1
        caught = landed & (self._ball[:, 1] == self._paddle)
        self._caught += caught
        missed = landed & ~caught
        truncated = self._caught == MAX_BALLS
        dones = missed | truncated
        scores = self._caught + missed
        episodes = [
            Episode(self._first_env + int(i), float(scores[i]), int(self._length[i]))
            for i in np.flatnonzero(dones)
        ]
        final_obs = self._draw()
        self._serve(caught & ~dones)
        self._start(dones)
        obs = self._draw()
        return Step(obs, landed.astype(np.float32), dones, truncated, final_obs, episodes)

    def save(self) -> list[EnvState]:
        return [
            EnvState(
                {
                    "generator": _plain(self._generators[i].bit_generator.state),
                    "paddle": int(self._paddle[i]),
                    "ball": self._ball[i].tolist(),
                    "caught": int(self._caught[i]),
                    "length": int(self._length[i]),
                },
                np.zeros(0, np.uint8),
            )
            for i in range(self.num_envs)
        ]

    def restore(self, env_states: list[EnvState]) -> NDArray[np.uint8]:
        self.reset()
        for i, (state, _) in enumerate(env_states):
            self._generators[i].bit_generator.state = state["generator"]
            self._paddle[i] = state["paddle"]
            self._ball[i] = state["ball"]
            self._caught[i] = state["caught"]
            self._length[i] = state["length"]
        return self._draw()

    @property
    def played(self) -> list[str]:
        """The actions of the last step."""
        return [self.action_names[action] for action in self._moved]

    @property
    def scores(self) -> list[float]:
        """The points of the current games."""
        return [float(caught) for caught in self._caught]

    def render(self) -> list[NDArray[np.uint8]]:
        """Return the current screens, [36, 36, 3] each."""
        return as_images(self._draw())

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _start(self, which: NDArray[np.bool_]) -> None:
        self._caught[which] = 0
        self._length[which] = 0
        for i in np.flatnonzero(which):
            self._paddle[i] = self._generators[i].integers(CELLS)
        self._serve(which)

    def _serve(self, which: NDArray[np.bool_]) -> None:
        for i in np.flatnonzero(which):
            self._ball[i] = (0, self._generators[i].integers(CELLS))

    def _draw(self) -> NDArray[np.uint8]:
        board = np.zeros((self.num_envs, CELLS, CELLS), np.uint8)
        board[self._rows, CELLS - 1, self._paddle] = 128
        board[self._rows, self._ball[:, 0], self._ball[:, 1]] = 255
        return np.kron(board, np.ones((1, CELL_PIXELS, CELL_PIXELS), np.uint8))[:, np.newaxis]


def as_images(obs: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return observations [N, 1, 36, 36] as N images [36, 36, 3]."""
    return [np.repeat(each[-1, :, :, np.newaxis], 3, axis=2) for each in obs]


def _plain(state: Mapping[str, Any]) -> Any:
    """Convert the state of a generator to JSON values."""
    return json.loads(json.dumps(state, default=np.ndarray.tolist))
