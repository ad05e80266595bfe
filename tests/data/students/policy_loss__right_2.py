# STYLE: torch.where by the sign of the advantage (as Spinning Up explains it)
import torch
from torch import Tensor


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    upper = torch.minimum(ratio, 1 + clip_coef)
    lower = torch.maximum(ratio, 1 - clip_coef)
    rho = torch.where(advantages >= 0, upper, lower)
    return -(rho * advantages).mean()
