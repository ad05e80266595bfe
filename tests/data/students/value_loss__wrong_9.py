# MISTAKE: Takes the max of the errors before squaring, so large negative errors lose.
import torch


def value_loss(new_values, old_values, targets, clip_coef):
    v_clip = old_values + torch.clamp(new_values - old_values, -clip_coef, clip_coef)
    worst = torch.max(new_values - targets, v_clip - targets)
    return 0.5 * (worst ** 2).mean()
