"""Train a network of your own on catch, a small game that is built in.

    python examples/network.py

From a terminal, `ppo37 train catch --network examples/network.py:Rows` does the same.
"""

import argparse

import torch
from torch import Tensor, nn

from ppo37 import evaluate, from_preset, train
from ppo37.session.view import ConsoleView


class Rows(nn.Module):
    """A dense layer for each row of the image, the same for all, and one for the whole."""

    features = 128  # numbers that it returns for each observation

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = obs_shape
        self.row = nn.Linear(channels * width, 16)
        self.whole = nn.Linear(height * 16, self.features)

    def forward(self, obs: Tensor) -> Tensor:
        rows = (obs / 255.0).transpose(1, 2).flatten(2)  # [B, C, H, W] to [B, H, C * W]
        return torch.relu(self.whole(torch.relu(self.row(rows)).flatten(1)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a network of your own.")
    parser.add_argument("--total-timesteps", type=int, default=20_000)
    parser.add_argument("--out", help="new run directory (default: under runs/)")
    options = parser.parse_args()
    config = from_preset("fast", "catch", total_timesteps=options.total_timesteps)
    summary = train(config, options.out, view=ConsoleView(), network=Rows)
    result = evaluate(summary.run, episodes=50, network=Rows)
    print(f"mean score: {result.mean:.2f}")


if __name__ == "__main__":
    main()
