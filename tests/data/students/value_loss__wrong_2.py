# MISTAKE: Forgets the factor 1/2.
import torch
from torch import Tensor


def value_loss(new_values: Tensor, old_values: Tensor, targets: Tensor, clip_coef: Tensor) -> Tensor:
    v_clip = old_values + (new_values - old_values).clamp(-clip_coef, clip_coef)
    return torch.max((new_values - targets).square(), (v_clip - targets).square()).mean()
