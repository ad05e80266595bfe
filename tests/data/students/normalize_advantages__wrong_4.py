# MISTAKE: Divides by the variance and not by the standard deviation.
import torch


def normalize_advantages(advantages):
    mu = advantages.mean()
    return (advantages - mu) / (advantages.var() + 1e-8)
