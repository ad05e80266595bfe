# MISTAKE: All observations get the noise of the first one.
import torch


def gaussian_sample(mean, log_std, noise):
    eps = noise[0]
    return mean + (log_std.exp() * eps).unsqueeze(0)
