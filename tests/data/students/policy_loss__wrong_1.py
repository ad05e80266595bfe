# MISTAKE: max in place of min (as with negated terms, but the terms are not negated).
import torch
from torch import Tensor


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    a = advantages * ratio
    b = advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return -torch.max(a, b).mean()
