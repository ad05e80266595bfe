# MISTAKE: The ratio is detached, so the loss has the right value but no gradient.
import torch


def policy_loss(advantages, ratio, clip_coef):
    r = ratio.detach()
    loss = -torch.min(r * advantages, r.clamp(1 - clip_coef, 1 + clip_coef) * advantages)
    return loss.mean()
