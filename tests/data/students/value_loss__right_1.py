# STYLE: F.mse_loss without reduction, clamp to bounds around the old value
import torch
import torch.nn.functional as F


def value_loss(new_values, old_values, targets, clip_coef):
    v_clip = torch.clamp(new_values, old_values - clip_coef, old_values + clip_coef)
    a = F.mse_loss(new_values, targets, reduction="none")
    b = F.mse_loss(v_clip, targets, reduction="none")
    return torch.max(a, b).mean() * 0.5
