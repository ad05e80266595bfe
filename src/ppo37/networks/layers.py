"""Functions for the layers of all networks: they initialize and list them."""

import torch
from torch import nn


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
