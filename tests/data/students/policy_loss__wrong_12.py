# MISTAKE: Normalizes the advantages a second time inside the loss.
import torch


def policy_loss(advantages, ratio, clip_coef):
    adv = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return -torch.min(ratio * adv, ratio.clamp(1 - clip_coef, 1 + clip_coef) * adv).mean()
