"""The convolutional network of Mnih et al. 2015, for images, and half of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import register

SMALLEST_SIDE = 36
"""The fewest pixels per side that the three convolutions need."""


@register("nature", smallest_side=SMALLEST_SIDE)
class NatureCNN(nn.Module):
    """Three convolutions and a dense layer: obs [B, C, H, W] -> features [B, F].

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning".
    """

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        channels: tuple[int, int, int] = (32, 64, 64),
        features: int = 512,
    ) -> None:
        super().__init__()
        planes, height, width = obs_shape
        first, second, third = channels
        self.obs_shape, self.features = obs_shape, features
        self.conv1 = nn.Conv2d(planes, first, 8, stride=4)
        self.conv2 = nn.Conv2d(first, second, 4, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3, stride=1)
        self.dense = nn.Linear(third * _output_side(height) * _output_side(width), features)

    @property
    def convolutions(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        return self.conv1, self.conv2, self.conv3

    def forward(self, obs: Tensor) -> Tensor:
        # Pixels 0..255 are exact in bf16. Dividing the few weights by 255 is the same function as
        # dividing the many pixels.
        pixels = obs.to(_layer_dtype(obs.device.type))
        weight = self.conv1.weight if obs.is_floating_point() else self.conv1.weight / 255.0  # D22
        x = torch.relu_(F.conv2d(pixels, weight, self.conv1.bias, self.conv1.stride))
        x = torch.relu_(self.conv2(x))
        x = torch.relu_(self.conv3(x))
        return torch.relu_(self.dense(x.flatten(1)))

    def zero_mean_init(self) -> None:
        """Subtract from every first kernel its mean in each input plane, and double the weights.

        Most of a game's screen is flat background. Random kernels respond to the brightness of the
        background more than to the small objects on it. A kernel of mean zero gives exactly zero on
        a flat patch of any brightness; the doubled scale makes the response to objects larger. Zero
        is where the slope of ReLU jumps, so until the weights have moved, rounding decides whether
        a flat patch passes gradients, and the first gradients differ between precisions and kernels
        (docs/LOG.md). Not part of the reference algorithm.
        """
        with torch.no_grad():
            weight = self.conv1.weight
            weight.copy_(2.0 * (weight - weight.mean((2, 3), keepdim=True)))


@register("nature_half", smallest_side=SMALLEST_SIDE)
def half(obs_shape: tuple[int, ...]) -> NatureCNN:
    """Make the network with half of each layer."""
    return NatureCNN(obs_shape, (16, 32, 32), 256)


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
