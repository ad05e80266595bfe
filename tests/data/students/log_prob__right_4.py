# STYLE: the diagonal of lp[:, actions]
import torch
from torch import Tensor


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    lp = torch.log_softmax(logits, dim=-1)
    return torch.diagonal(lp[:, actions])
