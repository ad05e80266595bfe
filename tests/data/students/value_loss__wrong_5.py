# MISTAKE: The max of the two means, not the mean of the max.
import torch
import torch.nn.functional as F


def value_loss(new_values, old_values, targets, clip_coef):
    clipped = old_values + torch.clamp(new_values - old_values, -clip_coef, clip_coef)
    return 0.5 * torch.max(F.mse_loss(new_values, targets), F.mse_loss(clipped, targets))
