# MISTAKE: Starts from the end of the order: the minibatches are in reverse order.
import torch


def minibatches(permutation, num_minibatches):
    m = len(permutation) // num_minibatches
    batches = []
    rest = permutation
    while len(rest) > 0:
        batches.append(rest[len(rest) - m:])
        rest = rest[:len(rest) - m]
    return batches
