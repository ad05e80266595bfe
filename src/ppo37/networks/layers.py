"""Functions that the networks share: the first weights, the list of layers, the first division."""

import torch
from torch import Tensor, nn


def orthogonal(layer: nn.Conv2d | nn.Linear, gain: float, generator: torch.Generator) -> None:
    """Initialize a layer with orthogonal weights of the given gain and zero biases.

    Source: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning".
    """
    nn.init.orthogonal_(layer.weight, gain, generator=generator)  # D02
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def layers_of(module: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """List the convolutions and dense layers of a module in the order of the data flow."""
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def scaled(obs: Tensor) -> Tensor:
    """Return observations as real numbers: uint8 divided by 255, others unchanged."""
    return obs if obs.is_floating_point() else obs / 255.0  # D22
