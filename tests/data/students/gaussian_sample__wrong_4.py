# MISTAKE: Ignores the given noise and draws its own.
import torch
from torch.distributions import Normal


def gaussian_sample(mean, log_std, noise):
    return Normal(mean, log_std.exp()).rsample()
