# MISTAKE: The minus sign is missing, so the negative entropy is returned.
import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    logp = torch.log_softmax(logits, dim=-1)
    p = logp.exp()
    return torch.where(p > 0, p * logp, torch.zeros_like(p)).sum(-1)
