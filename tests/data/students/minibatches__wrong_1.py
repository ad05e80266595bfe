# MISTAKE: Interleaves: minibatch i takes every num_minibatches-th index, starting at i.
import torch
from torch import Tensor


def minibatches(permutation: Tensor, num_minibatches: int) -> list[Tensor]:
    return [permutation[i::num_minibatches] for i in range(num_minibatches)]
