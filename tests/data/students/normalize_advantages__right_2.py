# STYLE: plain Python floats with the statistics module
import statistics

import torch
from torch import Tensor


def normalize_advantages(advantages: Tensor) -> Tensor:
    xs = advantages.tolist()
    mean = statistics.fmean(xs)
    std = statistics.stdev(xs, mean)
    return torch.tensor([(x - mean) / (std + 1e-8) for x in xs], dtype=torch.float32)
