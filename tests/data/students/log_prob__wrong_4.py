# MISTAKE: log_softmax over the observations (dim 0) and not over the actions.
import torch
import torch.nn.functional as F


def log_prob(logits, actions):
    lp = F.log_softmax(logits, dim=0)
    return torch.take_along_dim(lp, actions.view(-1, 1), dim=1).view(-1)
