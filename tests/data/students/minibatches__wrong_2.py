# MISTAKE: Takes num_minibatches as the size M: split(num_minibatches) gives another number of pieces.
import torch
from torch import Tensor


def minibatches(permutation: Tensor, num_minibatches: int) -> list[Tensor]:
    return list(torch.split(permutation, num_minibatches))
