# STYLE: zip over rows (it stops before the last value) and torch.stack
import torch


def value_targets(advantages, values):
    return torch.stack([a + v for a, v in zip(advantages, values)])
