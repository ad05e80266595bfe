# STYLE: plain Python lists of ints, made into new int64 tensors
import torch


def minibatches(permutation, num_minibatches):
    idx = permutation.tolist()
    m = len(idx) // num_minibatches
    out = [[] for _ in range(num_minibatches)]
    for position, i in enumerate(idx):
        out[position // m].append(i)
    return [torch.tensor(o, dtype=torch.int64) for o in out]
