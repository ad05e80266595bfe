# MISTAKE: Subtracts the median and not the mean.
import torch
from torch import Tensor


def normalize_advantages(advantages: Tensor) -> Tensor:
    return (advantages - advantages.median()) / (advantages.std() + 1e-8)
