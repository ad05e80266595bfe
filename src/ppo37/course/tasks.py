"""The environments in which functions of students are tried: catch, and three as small.

`remember` cannot be solved without a memory, `aim` has real numbers as actions, and `flicker` shows
raw screens in color, from which students make the observations.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import CATCH, Config
from ..envs.contract import EnvFactory, Episode, Step, VecEnv
from ..presets import from_preset
from ..randomness import GAMES, generator

CELLS = 6
BLOCK = 4
"""Pixels per side of a cell on the screens of `Flicker`."""
STACKED = 4
RED, GREEN = (200, 72, 72), (92, 186, 92)


def preprocess(previous: Tensor, current: Tensor) -> Tensor:
    """Make gray pictures [N, H / 4, W / 4] of two screens [N, H, W, 3] uint8 each."""
    colors = torch.maximum(previous, current).float()
    gray = (colors * torch.tensor([0.299, 0.587, 0.114])).sum(-1)
    return gray.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).mean((2, 4))


def stack_frames(stack: Tensor, picture: Tensor, starts: Tensor) -> Tensor:
    """Add pictures [N, H, W] to stacks [N, K, H, W], which are empty where an episode starts."""
    kept = stack[:, 1:] * (1.0 - starts)[:, None, None, None]
    return torch.cat([kept, picture.unsqueeze(1)], dim=1)


class Small(VecEnv):
    """N games whose observations are numbers; subclasses define `_start`, `_play` and `_observe`.

    The games are played as arrays with a row for each. A game that ends starts again in the same
    step, with the random numbers of its own environment.
    """

    obs_dtype = "float32"
    length: int
    """The most steps of a game."""

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        self.num_envs, self._first_env = num_envs, first_env
        self._seeding = (seed, index)

    def reset(self) -> NDArray[np.float32]:
        seed, index = self._seeding
        numbers = range(self._first_env, self._first_env + self.num_envs)
        self._random = [generator(seed, GAMES, index, env) for env in numbers]
        self._steps = np.zeros(self.num_envs, np.int64)
        self._scores = np.zeros(self.num_envs)
        everywhere = np.ones(self.num_envs, np.bool_)
        self._start(everywhere)
        return self._observe(everywhere)

    def step(self, actions: NDArray[Any]) -> Step:
        rewards, over = self._play(actions)
        self._steps += 1
        self._scores += rewards
        dones = over | (self._steps == self.length)
        episodes = [
            Episode(self._first_env + int(i), float(self._scores[i]), int(self._steps[i]))
            for i in np.flatnonzero(dones)
        ]
        self._steps[dones], self._scores[dones] = 0, 0.0
        self._start(dones)
        obs = self._observe(dones)
        never = np.zeros(self.num_envs, np.bool_)
        return Step(obs, rewards.astype(np.float32), dones, never, obs, episodes)

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _draw(self, which: NDArray[np.bool_], number: int) -> list[int]:
        """Draw a whole number below `number` for each of these games."""
        return [int(self._random[i].integers(number)) for i in np.flatnonzero(which)]

    @abstractmethod
    def _start(self, which: NDArray[np.bool_]) -> None:
        """Start these games."""

    @abstractmethod
    def _play(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Play a step. Returns the rewards, and where the game is over."""

    @abstractmethod
    def _observe(self, starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the observations. starts: where they are the first of a game."""


class Remember(Small):
    """A light is shown once or not at all; at the end the agent answers whether it was shown.

    Observation: light, question. A right answer gives 1 point, the highest score.
    """

    obs_shape, action_names, length = (2,), ("NO", "YES"), 6

    def _start(self, which: NDArray[np.bool_]) -> None:
        if which.all():
            self._moment = np.zeros(self.num_envs, np.int64)
        # A light at one of the first steps, or at a step that never comes.
        shown = 2 * (self.length - 1)
        self._moment[which] = self._draw(which, shown)

    def _play(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        asked = self._steps == self.length - 1
        right = (self._moment < self.length - 1) == (actions == 1)
        return (asked & right).astype(np.float64), asked

    def _observe(self, starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        parts = self._steps == self._moment, self._steps == self.length - 1
        return np.stack(parts, axis=1).astype(np.float32)


class Aim(Small):
    """The agent names a point, as near as possible to the point that it is shown.

    A reward is 1 minus the squared distance; a game has 8 points, so the highest score is 8.
    """

    obs_shape, action_names, length = (2,), ("X", "Y"), 8
    action_space = "continuous"

    def _start(self, which: NDArray[np.bool_]) -> None:
        self._show()

    def _play(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        rewards = 1.0 - np.square(actions - self._target).sum(1)
        self._show()
        return np.maximum(rewards, -10.0), np.zeros(self.num_envs, np.bool_)

    def _show(self) -> None:
        self._target = np.stack([random.uniform(-1.0, 1.0, 2) for random in self._random])

    def _observe(self, starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        return self._target.astype(np.float32)


class Flicker(Small):
    """A ball falls diagonally and has to be caught; the ball is only on every second screen.

    A step has two screens in color, of 24 x 24 pixels. Observations are made of them by
    `preprocess` and `stack_frames`. A caught ball gives 1 point; a game ends with a miss or with
    the tenth ball.
    """

    obs_shape, action_names = (STACKED * CELLS * CELLS,), ("LEFT", "STAY", "RIGHT")
    length = 10 * (CELLS - 1)

    def reset(self) -> NDArray[np.float32]:
        self._paddle = np.zeros(self.num_envs, np.int64)
        self._ball = np.zeros((self.num_envs, 3), np.int64)  # row, column, columns per step
        self._stack = torch.zeros(self.num_envs, STACKED, CELLS, CELLS)
        return super().reset()

    def _start(self, which: NDArray[np.bool_]) -> None:
        self._paddle[which] = self._draw(which, CELLS)
        self._serve(which)

    def _serve(self, which: NDArray[np.bool_]) -> None:
        self._ball[which, 0] = 0
        self._ball[which, 1] = self._draw(which, CELLS)
        self._ball[which, 2] = 2 * np.array(self._draw(which, 2), np.int64) - 1

    def _play(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        self._paddle = np.clip(self._paddle + actions - 1, 0, CELLS - 1)
        column = self._ball[:, 1] + self._ball[:, 2]
        bounced = (column < 0) | (column >= CELLS)
        self._ball[bounced, 2] *= -1
        self._ball[:, 1] += self._ball[:, 2]
        self._ball[:, 0] += 1
        landed = self._ball[:, 0] == CELLS - 1
        caught = landed & (self._ball[:, 1] == self._paddle)
        self._serve(caught)
        return caught.astype(np.float64), landed & ~caught

    def _observe(self, starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        screens = np.zeros((2, self.num_envs, CELLS, CELLS, 3), np.uint8)
        games = np.arange(self.num_envs)
        screens[:, games, CELLS - 1, self._paddle] = GREEN
        screens[self._steps % 2, games, self._ball[:, 0], self._ball[:, 1]] = RED
        large = np.kron(screens, np.ones((1, 1, BLOCK, BLOCK, 1), np.uint8))
        previous, current = torch.from_numpy(large)
        picture = preprocess(previous, current)
        self._stack = stack_frames(self._stack, picture, torch.from_numpy(starts).float())
        return (self._stack.flatten(1) / 255.0).numpy().astype(np.float32)


class Task(NamedTuple):
    """A small training, in which a function is tried.

    make_config: makes the settings from changes by name.  make_envs: None for a built-in game.
    random, best: the score of random play, and the highest one.
    """

    make_config: Callable[[dict[str, Any]], Config]
    make_envs: EnvFactory | None
    random: float
    best: float


def _catch(changes: dict[str, Any]) -> Config:
    sizes = {"total_timesteps": 24_576, "threads": 1}
    return from_preset("fast", CATCH, "cpu", **{**sizes, **changes})


def _small(name: str, **settings: Any) -> Callable[[dict[str, Any]], Config]:
    """Return a function that makes the settings of a task with a small network."""
    common = {
        "game": name,
        "observation": "vector",
        "network": "mlp",
        "num_envs": 16,
        "num_steps": 64,
        "num_minibatches": 4,
        "learning_rate": 2e-3,
        "clip_coef": 0.2,
        "threads": 1,
        "device": "cpu",
    }
    return lambda changes: Config(**{**common, **settings, **changes})


TASKS = {
    "catch": Task(_catch, None, 1.2, 10.0),
    "remember": Task(
        _small("remember", network="lstm", total_timesteps=12_288, gamma=0.9), Remember, 0.5, 1.0
    ),
    "aim": Task(
        _small("aim", action_space="continuous", ent_coef=0.0, total_timesteps=40_960, gamma=0.5),
        Aim,
        -13.3,
        8.0,
    ),
    "flicker": Task(_small("flicker", total_timesteps=49_152, gamma=0.95), Flicker, 0.2, 10.0),
}
