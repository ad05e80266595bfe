# MISTAKE: Loses the last minibatch: range ends at S - M.
import torch
from torch import Tensor


def minibatches(permutation: Tensor, num_minibatches: int) -> list[Tensor]:
    S = permutation.numel()
    M = S // num_minibatches
    parts = []
    for start in range(0, S - M, M):
        parts.append(permutation[start:start + M])
    return parts
