# MISTAKE: Only subtracts the mean, no division by the standard deviation.
import torch


def normalize_advantages(advantages):
    return advantages - torch.mean(advantages)
