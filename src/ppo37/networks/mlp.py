"""The networks of dense layers."""

import math

import torch
from torch import Tensor, nn

from .layers import scaled
from .registry import register


class MLP(nn.Module):
    """Dense layers of the sizes `hidden`, with tanh: obs [B, ...] -> features [B, F].

    With `separate_critic` the value function has layers of its own: features [B, 2 * F].
    """

    def __init__(
        self, obs_shape: tuple[int, ...], hidden: tuple[int, ...], separate_critic: bool
    ) -> None:
        super().__init__()
        self.separate_critic = separate_critic
        sizes = [math.prod(obs_shape), *hidden]
        self.features = sizes[-1]
        self.layers = nn.ModuleList(
            nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:])) for _ in range(1 + separate_critic)
        )

    def forward(self, obs: Tensor) -> Tensor:
        x = scaled(obs.flatten(1))
        return torch.cat([_with_tanh(layers, x) for layers in self.layers], dim=-1)  # D13


@register("mlp", smallest_side=1, vectors=True)
def separate_mlps(obs_shape: tuple[int, ...], hidden: tuple[int, ...]) -> MLP:
    """Make dense layers for the policy, and as many for the value."""
    return MLP(obs_shape, hidden, separate_critic=True)  # D26


@register("mlp_shared", smallest_side=1, vectors=True)
def shared_mlp(obs_shape: tuple[int, ...], hidden: tuple[int, ...]) -> MLP:
    """Make dense layers that the policy and the value share."""
    return MLP(obs_shape, hidden, separate_critic=False)


def _with_tanh(layers: nn.Module, x: Tensor) -> Tensor:
    for layer in layers.children():
        x = torch.tanh(layer(x))
    return x
