# STYLE: list comprehension over observations and torch.stack
import torch


def log_prob(scores, taken):
    return torch.stack([row[a] - torch.logsumexp(row, 0) for row, a in zip(scores, taken.tolist())])
