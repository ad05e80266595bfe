# MISTAKE: Detaches the logits, so the policy gets no gradient.
import torch
from torch.distributions import Categorical


def log_prob(logits, actions):
    dist = Categorical(logits=logits.detach())
    return dist.log_prob(actions)
