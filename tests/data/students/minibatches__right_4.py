# STYLE: recursion: the first M, then the rest
import torch


def minibatches(permutation, num_minibatches):
    if num_minibatches == 1:
        return [permutation.clone()]
    m = permutation.shape[0] // num_minibatches
    return [permutation[:m].clone()] + minibatches(permutation[m:], num_minibatches - 1)
