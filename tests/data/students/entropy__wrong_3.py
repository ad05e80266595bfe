# MISTAKE: The entropy is in bits (log2), not in nats.
import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    probs = torch.softmax(logits, dim=-1)
    safe = torch.where(probs > 0, probs, torch.ones_like(probs))
    return -(probs * torch.log2(safe)).sum(dim=-1)
