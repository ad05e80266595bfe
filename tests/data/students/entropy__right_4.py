# STYLE: log of the partition sum minus the mean logit, shifted by the (detached) maximum
import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """H = log Z - sum p z, with z = logits - max."""
    z = logits - logits.detach().amax(dim=-1, keepdim=True)
    e = z.exp()
    total = e.sum(-1)
    z = torch.where(e > 0, z, torch.zeros_like(z))
    return total.log() - (e * z).sum(-1) / total
