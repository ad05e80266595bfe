"""Train on your own environment: a game of dodging that implements `VecEnv`.

    python examples/dodge.py

Rocks fall down a board of 6 x 6 cells; you move left, stay or move right on the lowest row. Each
step without a hit gives a point, and a hit ends the game. You can train on anything of this kind:
a fixed number N of environments with uint8 images and a finite set of actions that step together
and restart by themselves.
"""

import argparse

import numpy as np

from ppo37 import Config, evaluate, train
from ppo37.envs import Episode, Step, VecEnv

CELLS, CELL_PIXELS, LIMIT_STEPS = 6, 6, 200


class Dodge(VecEnv):
    """N boards. Three attributes and the methods reset, step and close are all that is needed."""

    obs_shape = (1, CELLS * CELL_PIXELS, CELLS * CELL_PIXELS)
    action_names = ("LEFT", "STAY", "RIGHT")

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        self.num_envs = num_envs
        self.first_env = first_env
        # Each environment has its own random numbers, which must not depend on num_envs.
        self.seeds = [[seed, index, first_env + i] for i in range(num_envs)]
        self.boards = np.zeros((num_envs, CELLS, CELLS), bool)
        self.columns = np.full(num_envs, CELLS // 2)
        self.lengths = np.zeros(num_envs, int)

    def reset(self) -> np.ndarray:
        self.rngs = [np.random.default_rng(seed) for seed in self.seeds]
        self.restart(np.ones(self.num_envs, bool))
        return self.draw()

    def step(self, actions: np.ndarray) -> Step:
        self.columns = np.clip(self.columns + actions - 1, 0, CELLS - 1)
        self.boards = np.roll(self.boards, 1, axis=1)
        self.boards[:, 0] = False
        for i, rng in enumerate(self.rngs):
            self.boards[i, 0, rng.integers(CELLS)] = True
        self.lengths += 1
        hit = self.boards[np.arange(self.num_envs), -1, self.columns]
        truncated = ~hit & (self.lengths == LIMIT_STEPS)
        dones = hit | truncated
        episodes = [
            Episode(self.first_env + int(i), float(self.lengths[i]), int(self.lengths[i]))
            for i in np.flatnonzero(dones)
        ]
        final_obs = self.draw()  # the last observation, before the restart
        self.restart(dones)
        rewards = np.where(hit, -1.0, 0.0).astype(np.float32)  # for learning; not the score
        return Step(self.draw(), rewards, dones, truncated, final_obs, episodes)

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def restart(self, which: np.ndarray) -> None:
        self.boards[which] = False
        self.columns[which] = CELLS // 2
        self.lengths[which] = 0

    def draw(self) -> np.ndarray:
        cells = np.where(self.boards, 255, 0).astype(np.uint8)
        cells[np.arange(self.num_envs), -1, self.columns] = 128
        return np.kron(cells, np.ones((1, CELL_PIXELS, CELL_PIXELS), np.uint8))[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on a custom game.")
    parser.add_argument("--total-timesteps", type=int, default=200_000)
    parser.add_argument("--out", help="new run directory (default: under runs/)")
    options = parser.parse_args()
    config = Config(
        game="dodge",
        total_timesteps=options.total_timesteps,
        num_envs=32,
        num_steps=32,
        learning_rate=1e-3,
        clip_coef=0.2,
        network="nature_half",
        bootstrap_truncated=True,
    )
    summary = train(config, options.out, make_envs=Dodge)
    result = evaluate(summary.run, episodes=64, make_envs=Dodge)
    print(f"steps survived: {result.mean:.1f} of {LIMIT_STEPS}")


if __name__ == "__main__":
    main()
