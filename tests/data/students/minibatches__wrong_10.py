# MISTAKE: The indices are returned as float32, so they can't index.
import torch
from torch import Tensor


def minibatches(permutation: Tensor, num_minibatches: int) -> list[Tensor]:
    m = permutation.numel() // num_minibatches
    return [torch.Tensor([float(x) for x in permutation[i * m:(i + 1) * m]]) for i in range(num_minibatches)]
