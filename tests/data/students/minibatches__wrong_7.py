# MISTAKE: Off by one in the slice end: each minibatch has M - 1 indices, its last one is left out.
import torch


def minibatches(permutation, num_minibatches):
    m = permutation.size(0) // num_minibatches
    return [permutation[k * m:(k + 1) * m - 1] for k in range(num_minibatches)]
