# MISTAKE: Forgets to add V_old again: V_clip is only the clipped change.
import torch
from torch import Tensor


def value_loss(new_values: Tensor, old_values: Tensor, targets: Tensor, clip_coef: Tensor) -> Tensor:
    v_clip = (new_values - old_values).clamp(-clip_coef, +clip_coef)
    err = torch.maximum((new_values - targets).pow(2), (v_clip - targets).pow(2))
    return err.mean() / 2
