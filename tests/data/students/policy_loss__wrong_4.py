# MISTAKE: min(rho, clip(rho)) * A: the minimum is taken before multiplying, wrong for negative A.
import torch
from torch import Tensor


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return -(torch.minimum(ratio, clipped) * advantages).mean()
