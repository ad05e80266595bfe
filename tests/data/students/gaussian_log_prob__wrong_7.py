# MISTAKE: The sign of log std is wrong (+ log_std).
import math

import torch


def gaussian_log_prob(mean, log_std, actions):
    z = (actions - mean) / log_std.exp()
    return (-0.5 * z * z + log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
