# MISTAKE: The 1e-8 is under the root, sqrt(var + 1e-8), as in batch norm: wrong for small advantages.
import torch
from torch import Tensor


def normalize_advantages(advantages: Tensor) -> Tensor:
    var, mean = torch.var_mean(advantages)
    return (advantages - mean) * torch.rsqrt(var + 1e-8)
