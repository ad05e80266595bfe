# STYLE: slicing by the number of steps
import torch


def value_targets(advantages, values):
    T = advantages.size(0)
    return torch.add(advantages, values[:T])
