# MISTAKE: The minibatches are the inverse of the order: positions (argsort), not the indices themselves.
import torch


def minibatches(permutation, num_minibatches):
    order = torch.argsort(permutation)
    return list(order.chunk(num_minibatches))
