# MISTAKE: Forgets exp: returns the log-ratio.
import torch
from torch import Tensor


def probability_ratio(new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    logratio = new_log_probs - old_log_probs
    return logratio
