# MISTAKE: Returns the probability and not its logarithm.
import torch
from torch import Tensor


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    probs = torch.softmax(logits, dim=-1)
    return probs.gather(1, actions.unsqueeze(1)).squeeze(1)
