# MISTAKE: Absolute errors (L1) and not squared ones.
import torch


def value_loss(new_values, old_values, targets, clip_coef):
    v_clip = old_values + torch.clamp(new_values - old_values, -clip_coef, clip_coef)
    return 0.5 * torch.max((new_values - targets).abs(), (v_clip - targets).abs()).mean()
