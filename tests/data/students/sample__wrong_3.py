# MISTAKE: Counts cumulative probabilities < u and not <= u: wrong at ties, e.g. u = 0 with a first action of probability 0.
import torch
from torch import Tensor


def sample(logits: Tensor, uniforms: Tensor) -> Tensor:
    cdf = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    return (cdf < uniforms.unsqueeze(-1)).sum(dim=-1)
