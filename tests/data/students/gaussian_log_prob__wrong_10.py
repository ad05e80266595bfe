# MISTAKE: Detaches log_std, so the standard deviation is never learned.
import torch
from torch.distributions import Normal


def gaussian_log_prob(mean, log_std, actions):
    std = log_std.detach().exp()
    return Normal(mean, std).log_prob(actions).sum(1)
