# MISTAKE: Clips around the targets and not around the old values.
import torch


def value_loss(new_values, old_values, targets, clip_coef):
    v_clip = targets + torch.clamp(new_values - targets, -clip_coef, clip_coef)
    return 0.5 * torch.max((new_values - targets) ** 2, (v_clip - targets) ** 2).mean()
