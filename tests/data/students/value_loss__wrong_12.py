# MISTAKE: Broadcasts [M, 1] against [M]: every value is compared with every target.
import torch


def value_loss(new_values, old_values, targets, clip_coef):
    v = new_values.reshape(-1, 1)
    v_old = old_values.reshape(-1, 1)
    v_clip = v_old + torch.clamp(v - v_old, -clip_coef, clip_coef)
    return 0.5 * torch.max((v - targets) ** 2, (v_clip - targets) ** 2).mean()
