"""The network of dense layers, for vectors."""

import math

import torch
from torch import Tensor, nn

from .layers import layers_of


class MLP(nn.Module):
    """Two dense layers: obs [B, ...] -> features [B, F].

    With `separate_critic` the value function has two layers of its own: features [B, 2 * F].
    Observations are fp32, or bytes that are scaled to 0..1 here.
    """

    def __init__(self, obs_shape: tuple[int, ...], features: int, separate_critic: bool) -> None:
        super().__init__()
        self.separate_critic = separate_critic
        size = math.prod(obs_shape)
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Linear(size, features), nn.Linear(features, features)])
            for _ in range(1 + separate_critic)
        )

    @property
    def first_layers(self) -> list[nn.Conv2d | nn.Linear]:
        """List the layers that read observations."""
        return [layers_of(pair)[0] for pair in self.layers]

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.flatten(1)
        x = x if x.is_floating_point() else x / 255.0
        return torch.cat([_two_layers(pair, x) for pair in self.layers], dim=-1)  # D13


def _two_layers(pair: nn.Module, x: Tensor) -> Tensor:
    for layer in pair.children():
        x = torch.tanh(layer(x))
    return x
