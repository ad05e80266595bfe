# MISTAKE: Adds 1e-3 inside the logarithm to avoid log 0, which changes the entropy.
import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    probs = torch.softmax(logits, -1)
    return -(probs * (probs + 1e-3).log()).sum(-1)
