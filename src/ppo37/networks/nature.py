"""The convolutional network of Mnih et al. 2015, for images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError

SMALLEST_SIDE = 36
"""The fewest pixels per side that the three convolutions need."""


class NatureCNN(nn.Module):
    """Three convolutions and a dense layer: obs [B, C, H, W] uint8 -> features [B, F].

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning".
    """

    separate_critic = False

    def __init__(
        self, obs_shape: tuple[int, ...], channels: tuple[int, int, int], features: int
    ) -> None:
        super().__init__()
        planes, height, width = obs_shape
        if min(height, width) < SMALLEST_SIDE:
            raise UsageError(
                f"observations of {height} x {width} pixels are too small for the convolutions, "
                f"which need {SMALLEST_SIDE} x {SMALLEST_SIDE}"
            )
        first, second, third = channels
        self.obs_shape = obs_shape
        self.conv1 = nn.Conv2d(planes, first, 8, stride=4)
        self.conv2 = nn.Conv2d(first, second, 4, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3, stride=1)
        self.dense = nn.Linear(third * _output_side(height) * _output_side(width), features)

    @property
    def convolutions(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        return self.conv1, self.conv2, self.conv3

    @property
    def first_layers(self) -> list[nn.Conv2d | nn.Linear]:
        """List the layers that read observations."""
        return [self.conv1]

    def forward(self, obs: Tensor) -> Tensor:
        # Pixels 0..255 are exact in bf16. Dividing the few weights by 255 is the same function as
        # dividing the many pixels.
        pixels = obs.to(_layer_dtype(obs.device.type))
        x = F.conv2d(pixels, self.conv1.weight / 255.0, self.conv1.bias, self.conv1.stride)  # D22
        x = torch.relu_(x)
        x = torch.relu_(self.conv2(x))
        x = torch.relu_(self.conv3(x))
        return torch.relu_(self.dense(x.flatten(1)))


def zero_mean_init(first: nn.Conv2d) -> None:
    """Subtract from every kernel its mean in each input plane, and double the weights.

    Most of a game's screen is flat background. Random kernels respond to the brightness of the
    background more than to the small objects on it. A kernel of mean zero gives exactly zero on a
    flat patch of any brightness; the doubled scale makes the response to objects larger. Zero is
    where the slope of ReLU jumps, so until the weights have moved, rounding decides whether a flat
    patch passes gradients, and the first gradients differ between precisions and kernels
    (docs/LOG.md). Not part of the reference algorithm.
    """
    with torch.no_grad():
        weight = first.weight
        weight.copy_(2.0 * (weight - weight.mean((2, 3), keepdim=True)))


def _output_side(side: int) -> int:
    """Compute how many pixels of `side` are left after the three convolutions."""
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        side = (side - kernel) // stride + 1
    return side


def _layer_dtype(device_type: str) -> torch.dtype:
    """Return the precision in which layers compute here: autocast's, or fp32."""
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return torch.float32
