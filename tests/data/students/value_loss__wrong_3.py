# MISTAKE: No clipping at all: 1/2 of the mean squared error.
import torch
import torch.nn.functional as F


def value_loss(new_values, old_values, targets, clip_coef):
    return 0.5 * F.mse_loss(new_values, targets)
