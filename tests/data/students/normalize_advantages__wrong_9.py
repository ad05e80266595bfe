# MISTAKE: The deviation is the root mean square of A itself and not of A - mean.
import torch


def normalize_advantages(advantages):
    m = advantages.numel()
    centered = advantages - advantages.sum() / m
    scale = (advantages.pow(2).sum() / (m - 1)).sqrt()
    return centered / (scale + 1e-8)
