# MISTAKE: Averages over the actions where it should sum.
import torch
from torch.distributions import Categorical


def entropy(logits):
    n_actions = logits.shape[1]
    d = Categorical(logits=logits)
    return d.entropy() / n_actions
