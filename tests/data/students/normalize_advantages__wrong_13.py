# MISTAKE: eps is 0.01 and not 1e-8, visible for small advantages.
import torch


def normalize_advantages(advantages):
    std, mean = torch.std_mean(advantages)
    return (advantages - mean) / (std + 1e-2)
