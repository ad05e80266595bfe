# STYLE: loop over the dimensions, constants with math
import math

import torch
from torch import Tensor


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    total = torch.zeros(mean.shape[0])
    for k in range(mean.shape[1]):
        z = (actions[:, k] - mean[:, k]) / torch.exp(log_std[k])
        total = total - z ** 2 / 2 - log_std[k] - math.log(2 * math.pi) / 2
    return total
