# MISTAKE: log_std is subtracted once, averaged over dimensions, and not summed over them.
import math

import torch


def gaussian_log_prob(mean, log_std, actions):
    d = mean.shape[-1]
    z = (actions - mean) * torch.exp(-log_std)
    return -(z ** 2).sum(-1) / 2 - log_std.mean() - d * math.log(2 * math.pi) / 2
