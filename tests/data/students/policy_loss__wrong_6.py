# MISTAKE: Clips the product rho * A to 1 - eps ... 1 + eps and not rho.
import torch


def policy_loss(advantages, ratio, clip_coef):
    obj = ratio * advantages
    return -torch.min(obj, obj.clamp(1 - clip_coef, 1 + clip_coef)).mean()
