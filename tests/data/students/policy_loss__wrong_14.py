# MISTAKE: Averages only over the samples whose ratio is within 1 - eps ... 1 + eps, and drops the others.
import torch


def policy_loss(advantages, ratio, clip_coef):
    inside = ((ratio - 1).abs() <= clip_coef).float()
    obj = torch.min(ratio * advantages, ratio.clamp(1 - clip_coef, 1 + clip_coef) * advantages)
    return -(obj * inside).sum() / inside.sum().clamp(min=1)
