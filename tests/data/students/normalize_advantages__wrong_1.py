# MISTAKE: The standard deviation divides by M (unbiased=False), not by M - 1.
import torch
from torch import Tensor


def normalize_advantages(advantages: Tensor) -> Tensor:
    return (advantages - advantages.mean()) / (advantages.std(unbiased=False) + 1e-8)
