# MISTAKE: F.cross_entropy is the negative log-probability; the sign is not turned.
import torch
import torch.nn.functional as F


def log_prob(logits, actions):
    return F.cross_entropy(logits, actions, reduction="none")
