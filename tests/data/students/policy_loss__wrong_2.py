# MISTAKE: The minus sign is missing: minimizing this loss makes the policy worse.
import torch
from torch import Tensor


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    surr1 = ratio * advantages
    surr2 = torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef) * advantages
    return torch.min(surr1, surr2).mean()
