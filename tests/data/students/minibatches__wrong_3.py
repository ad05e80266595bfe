# MISTAKE: Shuffles the order again before cutting it.
import torch


def minibatches(permutation, num_minibatches):
    b_inds = permutation[torch.randperm(len(permutation))]
    size = len(b_inds) // num_minibatches
    return [b_inds[s:s + size] for s in range(0, len(b_inds), size)]
