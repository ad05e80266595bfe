"""The network of Young and Tian 2019, for small images."""

import torch
from torch import Tensor, nn

from .layers import scaled
from .registry import register

KERNEL = 3


@register("minatar", smallest_side=KERNEL)
class MinAtarCNN(nn.Module):
    """A convolution and a dense layer with ReLU: obs [B, C, H, W] -> features [B, 128].

    Source: Young and Tian 2019, "MinAtar: An Atari-inspired testbed for thorough and reproducible
    reinforcement learning experiments": the network of their DQN, for 10 x 10 pixels.
    """

    features = 128

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = obs_shape
        self.conv = nn.Conv2d(channels, 16, KERNEL)
        self.dense = nn.Linear(16 * (height - KERNEL + 1) * (width - KERNEL + 1), self.features)

    def forward(self, obs: Tensor) -> Tensor:
        x = torch.relu(self.conv(scaled(obs)))
        return torch.relu(self.dense(x.flatten(1)))
