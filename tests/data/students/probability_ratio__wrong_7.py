# MISTAKE: Computed under no_grad, so no gradient flows.
import torch
from torch import Tensor


def probability_ratio(new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    with torch.no_grad():
        ratio = torch.exp(new_log_probs - old_log_probs)
    return ratio
