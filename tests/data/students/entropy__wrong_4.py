# MISTAKE: The softmax goes over the observations (dim 0) and not over the actions.
import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    probs = logits.softmax(dim=0)
    return -torch.xlogy(probs, probs).sum(dim=1)
