# MISTAKE: exp() of the raw logits without subtracting the maximum: large logits overflow to NaN.
import torch


def entropy(logits):
    e = logits.exp()
    z = e.sum(1, keepdim=True)
    p = e / z
    return -(p * torch.where(p > 0, p, 1.0).log()).sum(1)
