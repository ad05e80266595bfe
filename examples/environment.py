"""Train on an environment of your own: a game of dodging rocks, as a Gymnasium environment.

python examples/environment.py
ppo37 train --env examples/environment.py:Dodge --env-kwargs '{"rocks": 2}'
"""

import argparse
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from ppo37 import evaluate, from_preset, train


class Dodge(gymnasium.Env[np.ndarray, np.int64]):
    """A board of 6 x 6 cells. Rocks fall, and you move on the lowest row; a hit ends the game."""

    observation_space = Box(0, 255, (1, 6, 6), np.uint8)
    action_space = Discrete(3)  # left, stay, right
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, rocks: int = 1, render_mode: str | None = None) -> None:
        self.rocks, self.render_mode = rocks, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.board, self.column, self.steps = np.zeros((6, 6), bool), 3, 0
        return self.draw(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.column = int(np.clip(self.column + action - 1, 0, 5))
        self.board = np.roll(self.board, 1, axis=0)
        self.board[0] = np.isin(np.arange(6), self.np_random.choice(6, self.rocks, replace=False))
        self.steps += 1
        hit = bool(self.board[-1, self.column])
        return self.draw(), float(not hit), hit, self.steps == 200, {}

    def draw(self) -> np.ndarray:
        cells = np.where(self.board, 255, 0).astype(np.uint8)
        cells[-1, self.column] = 128
        return cells[None]

    def render(self) -> np.ndarray:
        return np.repeat(self.draw()[0, :, :, None], 3, axis=2)  # [H, W, 3]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train on a game of your own.")
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--out", help="new run directory (default: under runs/)")
    options = parser.parse_args()
    changes = {"num_envs": 32, "num_steps": 32, "norm_reward": True}
    changes["total_timesteps"] = options.total_timesteps
    config = from_preset("auto", device="cpu", make_envs=Dodge, **changes)
    summary = train(config, options.out, make_envs=Dodge)
    result = evaluate(summary.run, episodes=32, make_envs=Dodge)
    print(f"steps survived: {result.mean:.1f} of 200")
