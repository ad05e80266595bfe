# MISTAKE: Clips only from above; the lower bound 1 - eps is forgotten.
import torch
from torch import Tensor


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    bounded = torch.minimum(ratio, 1 + clip_coef)
    return -torch.minimum(ratio * advantages, bounded * advantages).mean()
