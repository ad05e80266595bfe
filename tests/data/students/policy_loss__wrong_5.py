# MISTAKE: Only the clipped term, without the min.
import torch


def policy_loss(advantages, ratio, clip_coef):
    return -(torch.clip(ratio, 1 - clip_coef, 1 + clip_coef) * advantages).mean()
