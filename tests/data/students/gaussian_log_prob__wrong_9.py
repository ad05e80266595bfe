# MISTAKE: Takes the logarithm of the product of densities, which underflows to -inf for unlikely actions.
import math

import torch
from torch import Tensor


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    std = log_std.exp()
    density = torch.exp(-0.5 * ((actions - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return torch.log(density.prod(dim=-1))
