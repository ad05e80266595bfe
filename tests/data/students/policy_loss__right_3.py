# STYLE: loop over samples, Python min and max on 0-d tensors
import torch


def policy_loss(A, rho, eps):
    total = 0
    for a, r in zip(A, rho):
        clipped = max(min(r, 1 + eps), 1 - eps)
        total = total + min(r * a, clipped * a)
    return -total / len(A)
