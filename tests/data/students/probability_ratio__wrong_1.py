# MISTAKE: Divides the logarithms by each other.
import torch
from torch import Tensor


def probability_ratio(new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    return new_log_probs / old_log_probs
