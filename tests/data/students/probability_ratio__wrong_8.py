# MISTAKE: expm1: the ratio minus 1.
import torch
from torch import Tensor


def probability_ratio(new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    return torch.expm1(new_log_probs - old_log_probs)
