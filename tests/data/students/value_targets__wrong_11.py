# MISTAKE: Averages the values over the environments before adding them.
import torch


def value_targets(advantages, values):
    return advantages + values[:-1].mean(dim=1, keepdim=True)
