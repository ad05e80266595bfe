"""Train on N games that step together as arrays, a `VecEnv`, faster than N objects of Gymnasium.

python examples/dodge.py
"""

import argparse

import numpy as np

from ppo37 import Config, evaluate, train
from ppo37.envs import Episode, Step, VecEnv


class Dodge(VecEnv):
    """N boards. Three attributes and the methods reset and step are all that is needed."""

    obs_shape, action_names = (1, 36, 36), ("LEFT", "STAY", "RIGHT")

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        self.num_envs, self.first_env = num_envs, first_env
        # Each environment has its own random numbers, which must not depend on num_envs.
        self.seeds = [[seed, index, first_env + i] for i in range(num_envs)]

    def reset(self) -> np.ndarray:
        self.rngs = [np.random.default_rng(seed) for seed in self.seeds]
        self.boards = np.zeros((self.num_envs, 6, 6), bool)
        self.columns, self.lengths = np.full(self.num_envs, 3), np.zeros(self.num_envs, int)
        return self.draw()

    def step(self, actions: np.ndarray) -> Step:
        self.columns = np.clip(self.columns + actions - 1, 0, 5)
        self.boards = np.roll(self.boards, 1, axis=1)
        self.boards[:, 0] = [np.arange(6) == rng.integers(6) for rng in self.rngs]
        self.lengths += 1
        hit = self.boards[np.arange(self.num_envs), -1, self.columns]
        truncated = ~hit & (self.lengths == 200)
        ended = np.flatnonzero(hit | truncated)
        lengths = zip(ended.tolist(), self.lengths[ended].tolist(), strict=True)
        games = [Episode(self.first_env + env, float(length), length) for env, length in lengths]
        final_obs = self.draw()  # the last observation, before the restart
        self.boards[ended], self.columns[ended], self.lengths[ended] = False, 3, 0
        rewards = np.where(hit, -1.0, 0.0).astype(np.float32)  # for learning; not the score
        return Step(self.draw(), rewards, hit | truncated, truncated, final_obs, games)

    def draw(self) -> np.ndarray:
        cells = np.where(self.boards, 255, 0).astype(np.uint8)
        cells[np.arange(self.num_envs), -1, self.columns] = 128
        return np.kron(cells, np.ones((1, 6, 6), np.uint8))[:, None]  # [N, C, H, W]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train on a custom game.")
    parser.add_argument("--total-timesteps", type=int, default=200_000)
    parser.add_argument("--out", help="new run directory (default: under runs/)")
    options = parser.parse_args()
    sizes = {"total_timesteps": options.total_timesteps, "num_envs": 32, "num_steps": 32}
    rates = {"learning_rate": 1e-3, "clip_coef": 0.2, "bootstrap_truncated": True}
    config = Config(game="dodge", network="nature_half", **sizes, **rates)
    summary = train(config, options.out, make_envs=Dodge)
    print(f"steps survived: {evaluate(summary.run, 64, make_envs=Dodge).mean:.1f} of 200")
