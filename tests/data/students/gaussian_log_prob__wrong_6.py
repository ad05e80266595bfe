# MISTAKE: The square is only on (a - mean): divides by std and not by std^2.
import math

import torch
from torch import Tensor


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    std = torch.exp(log_std)
    lp = -(actions - mean) ** 2 / std / 2 - log_std - math.log(2 * math.pi) / 2
    return lp.sum(-1)
