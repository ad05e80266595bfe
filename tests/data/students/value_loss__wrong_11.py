# MISTAKE: eps is fixed at 0.2.
import torch


def value_loss(new_values, old_values, targets, clip_coef):
    v_clip = old_values + torch.clamp(new_values - old_values, -0.2, 0.2)
    return 0.5 * torch.max((new_values - targets) ** 2, (v_clip - targets) ** 2).mean()
