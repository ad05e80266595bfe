"""The residual network of Espeholt et al. 2018, for images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import scaled
from .registry import register


@register("impala", smallest_side=1)
class Impala(nn.Module):
    """Three groups of convolutions and a dense layer: obs [B, C, H, W] -> features [B, 256].

    Each group has a convolution, a max pooling that halves the sides, and two residual blocks.
    Source: Espeholt et al. 2018, "IMPALA: Scalable distributed deep-RL with importance weighted
    actor-learner architectures", figure 3, without its LSTM.
    """

    features = 256

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = obs_shape
        self.groups = nn.ModuleList()
        for outputs in (16, 32, 32):
            self.groups.append(Group(channels, outputs))
            channels, height, width = outputs, (height + 1) // 2, (width + 1) // 2
        self.dense = nn.Linear(channels * height * width, self.features)

    def forward(self, obs: Tensor) -> Tensor:
        x = scaled(obs)
        for group in self.groups:
            x = group(x)
        return torch.relu(self.dense(torch.relu(x).flatten(1)))


class Group(nn.Module):
    """A convolution, a max pooling and two residual blocks: sides of n become (n + 1) // 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.blocks = nn.Sequential(Residual(outputs), Residual(outputs))

    def forward(self, x: Tensor) -> Tensor:
        smaller = F.max_pool2d(self.conv(x), 3, stride=2, padding=1)
        blocks: Tensor = self.blocks(smaller)
        return blocks


class Residual(nn.Module):
    """Two convolutions, each after a ReLU, that are added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(torch.relu(self.conv1(torch.relu(x))))
        return x + change
