# MISTAKE: Clips at 1 / (1 + eps) from below and not at 1 - eps.
import torch
from torch import Tensor


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    clipped = torch.clamp(ratio, 1 / (1 + clip_coef), 1 + clip_coef)
    return -torch.min(ratio * advantages, clipped * advantages).mean()
