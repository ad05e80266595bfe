# STYLE: torch.std_mean with correction=1
import torch


def normalize_advantages(a):
    std, mean = torch.std_mean(a, correction=1)
    return a.sub(mean).div(std + 1e-8)
