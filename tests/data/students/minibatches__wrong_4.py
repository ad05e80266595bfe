# MISTAKE: Ignores the permutation and returns consecutive indices 0 ... S - 1.
import torch


def minibatches(permutation, num_minibatches):
    batch_size = permutation.shape[0]
    mb = batch_size // num_minibatches
    out = []
    for start in range(0, batch_size, mb):
        out.append(torch.arange(start, start + mb))
    return out
