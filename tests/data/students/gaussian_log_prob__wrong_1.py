# MISTAKE: Averages over the dimensions of the action where it should sum.
import torch
from torch.distributions import Normal


def gaussian_log_prob(mean, log_std, actions):
    return Normal(mean, log_std.exp()).log_prob(actions).mean(-1)
