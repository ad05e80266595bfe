# MISTAKE: The log-probability of the most likely action; the action taken is ignored.
import torch


def log_prob(logits, actions):
    return torch.log_softmax(logits, -1).max(dim=-1).values
