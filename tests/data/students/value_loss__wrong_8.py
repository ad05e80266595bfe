# MISTAKE: Relative clipping: V is clipped to V_old * (1 -+ eps), as for the ratio.
import torch


def value_loss(new_values, old_values, targets, clip_coef):
    a, b = old_values * (1 - clip_coef), old_values * (1 + clip_coef)
    v_clip = torch.max(torch.min(new_values, torch.max(a, b)), torch.min(a, b))
    return 0.5 * torch.max((new_values - targets) ** 2, (v_clip - targets) ** 2).mean()
