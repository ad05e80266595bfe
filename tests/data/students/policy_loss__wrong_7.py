# MISTAKE: The minimum of the two means, and not the mean of the minima.
import torch
from torch import Tensor


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    lo, hi = 1 - clip_coef, 1 + clip_coef
    unclipped = (ratio * advantages).mean()
    clipped = (torch.clamp(ratio, lo, hi) * advantages).mean()
    return -torch.min(unclipped, clipped)
