# STYLE: stack both terms and amin, clip_coef as a Python float
import torch


def policy_loss(advantages, ratio, clip_coef):
    e = float(clip_coef)
    both = torch.stack([ratio, torch.clip(ratio, 1 - e, 1 + e)]) * advantages
    return both.amin(dim=0).mean().neg()
