# MISTAKE: Sorts the indices within each minibatch.
import torch


def minibatches(permutation, num_minibatches):
    return [chunk.sort().values for chunk in permutation.chunk(num_minibatches)]
