# MISTAKE: Sums over the samples and does not average.
import torch


def policy_loss(advantages, ratio, clip_coef):
    c = torch.clamp(ratio, 1.0 - clip_coef, 1.0 + clip_coef)
    return -torch.min(ratio * advantages, c * advantages).sum()
