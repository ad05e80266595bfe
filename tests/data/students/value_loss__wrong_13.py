# MISTAKE: The clipped values are computed without gradient by detaching new_values in V_clip.
import torch
from torch import Tensor


def value_loss(new_values: Tensor, old_values: Tensor, targets: Tensor, clip_coef: Tensor) -> Tensor:
    v_clip = old_values + torch.clamp(new_values.detach() - old_values, -clip_coef, clip_coef)
    return 0.5 * torch.max((new_values - targets) ** 2, (v_clip - targets) ** 2).mean()
