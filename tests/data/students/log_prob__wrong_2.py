# MISTAKE: Returns the raw logit of the action: forgets to normalize.
import torch


def log_prob(logits, actions):
    return logits[torch.arange(len(actions)), actions]
