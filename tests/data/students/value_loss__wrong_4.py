# MISTAKE: Only the clipped error, without the max.
import torch
import torch.nn.functional as F


def value_loss(new_values, old_values, targets, clip_coef):
    v = old_values + torch.clamp(new_values - old_values, -clip_coef, clip_coef)
    return F.mse_loss(v, targets) / 2
