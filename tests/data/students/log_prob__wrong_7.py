# MISTAKE: Softmax first and the logarithm after it: -inf (and NaN gradients) for very unlikely actions.
import torch


def log_prob(logits, actions):
    p = logits.softmax(-1)
    picked = p[range(p.shape[0]), actions]
    return torch.log(picked)
