# STYLE: loop over the samples and torch.stack
import torch
from torch import Tensor


def probability_ratio(new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    ratios = []
    for n, o in zip(new_log_probs, old_log_probs):
        ratios.append(torch.exp(n - o))
    return torch.stack(ratios)
