# MISTAKE: Multiplies the noise with the variance exp(2 log_std), not with std.
import torch


def gaussian_sample(mean, log_std, noise):
    var = log_std.exp() ** 2
    return torch.addcmul(mean, var.expand_as(noise), noise)
