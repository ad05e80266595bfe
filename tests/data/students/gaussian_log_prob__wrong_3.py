# MISTAKE: Adds log(2 pi) / 2 only once and not once for each dimension.
import math

import torch
from torch import Tensor


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    z = (actions - mean) / log_std.exp()
    return -0.5 * z.pow(2).sum(1) - log_std.sum() - 0.5 * math.log(2 * math.pi)
