"""Bring your own environment: a game of dodging, written against the `VecEnv` contract.

    python examples/dodge.py

Rocks fall down a board of 6 x 6 cells; you move left, stay or move right on the lowest row.
Every step survived is a point, a hit ends the game. Anything with this shape can be trained on:
a fixed batch of N environments, uint8 images, a finite set of actions, restarting by itself.
"""

import argparse

import numpy as np

from ppo37 import Config, evaluate, train
from ppo37.envs import Episode, Step, VecEnv
from ppo37.session.view import ConsoleView

CELLS, CELL_PIXELS, LIMIT_STEPS = 6, 6, 200


class Dodge(VecEnv):
    """N boards. The three attributes and reset, step and close are the whole contract."""

    obs_shape = (1, CELLS * CELL_PIXELS, CELLS * CELL_PIXELS)
    action_names = ("LEFT", "STAY", "RIGHT")

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        self.num_envs = num_envs
        self.first_env = first_env
        # Each environment has randomness of its own, whichever part it is in.
        self.seeds = [[seed, index, first_env + i] for i in range(num_envs)]
        self.boards = np.zeros((num_envs, CELLS, CELLS), bool)
        self.places = np.full(num_envs, CELLS // 2)
        self.lengths = np.zeros(num_envs, int)

    def reset(self) -> np.ndarray:
        self.rngs = [np.random.default_rng(seed) for seed in self.seeds]
        self.restart(np.ones(self.num_envs, bool))
        return self.draw()

    def step(self, actions: np.ndarray) -> Step:
        self.places = np.clip(self.places + actions - 1, 0, CELLS - 1)
        self.boards = np.roll(self.boards, 1, axis=1)
        self.boards[:, 0] = False
        for i, rng in enumerate(self.rngs):
            self.boards[i, 0, rng.integers(CELLS)] = True
        self.lengths += 1
        hit = self.boards[np.arange(self.num_envs), -1, self.places]
        truncated = ~hit & (self.lengths == LIMIT_STEPS)
        dones = hit | truncated
        episodes = [
            Episode(self.first_env + int(i), float(self.lengths[i]), int(self.lengths[i]))
            for i in np.flatnonzero(dones)
        ]
        final_obs = self.draw()  # before the restart: what a cut-off game last showed
        self.restart(dones)
        rewards = np.where(hit, -1.0, 0.0).astype(np.float32)  # learned from; not the score
        return Step(self.draw(), rewards, dones, truncated, final_obs, episodes)

    def close(self) -> None:
        """Nothing to free."""

    def restart(self, which: np.ndarray) -> None:
        self.boards[which] = False
        self.places[which] = CELLS // 2
        self.lengths[which] = 0

    def draw(self) -> np.ndarray:
        cells = np.where(self.boards, 255, 0).astype(np.uint8)
        cells[np.arange(self.num_envs), -1, self.places] = 128
        return np.kron(cells, np.ones((1, CELL_PIXELS, CELL_PIXELS), np.uint8))[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on a game of one's own.")
    parser.add_argument("--total-timesteps", type=int, default=200_000)
    parser.add_argument("--out", help="a new run directory (default: one under runs/)")
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
    summary = train(config, options.out, view=ConsoleView(), make_envs=Dodge)
    if not summary.finished:
        raise SystemExit(f"stopped; {summary.run} has a checkpoint")
    result = evaluate(summary.run, episodes=64, make_envs=Dodge)
    print(f"steps survived: {result.mean:.1f} of {LIMIT_STEPS}")


if __name__ == "__main__":
    main()
