# MISTAKE: Does not subtract the mean.
import torch
from torch import Tensor


def normalize_advantages(advantages: Tensor) -> Tensor:
    return advantages / (advantages.std() + 1e-8)
