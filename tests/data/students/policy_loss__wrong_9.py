# MISTAKE: eps is fixed at 0.2; clip_coef is ignored.
import torch


def policy_loss(advantages, ratio, clip_coef):
    eps = 0.2
    return torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - eps, 1 + eps)).mean()
