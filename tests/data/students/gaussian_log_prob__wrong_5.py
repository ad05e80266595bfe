# MISTAKE: log_std is treated as the logarithm of the variance (std = exp(log_std / 2)).
import math

import torch


def gaussian_log_prob(mean, log_std, actions):
    var = log_std.exp()
    terms = -((actions - mean) ** 2) / (2 * var) - 0.5 * log_std - 0.5 * math.log(2 * math.pi)
    return terms.sum(dim=1)
