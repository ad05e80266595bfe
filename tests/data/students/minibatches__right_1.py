# STYLE: torch.chunk
import torch


def minibatches(permutation, num_minibatches):
    return list(permutation.chunk(num_minibatches))
