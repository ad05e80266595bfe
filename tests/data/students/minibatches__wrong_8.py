# MISTAKE: Reshapes to [M, num_minibatches] and takes the columns.
import torch
from torch import Tensor


def minibatches(permutation: Tensor, num_minibatches: int) -> list[Tensor]:
    table = permutation.view(-1, num_minibatches)
    return [table[:, j] for j in range(num_minibatches)]
