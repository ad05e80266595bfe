# MISTAKE: Missing brackets: A - mean / (std + 1e-8).
import torch
from torch import Tensor


def normalize_advantages(advantages: Tensor) -> Tensor:
    return advantages - advantages.mean() / (advantages.std() + 1e-8)
