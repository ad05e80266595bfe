# STYLE: plain loops over elements
import math

import torch
from torch import Tensor


def gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    B, D = mean.shape
    a = torch.empty(B, D)
    for b in range(B):
        for d in range(D):
            a[b, d] = float(mean[b, d]) + math.exp(float(log_std[d])) * float(noise[b, d])
    return a
