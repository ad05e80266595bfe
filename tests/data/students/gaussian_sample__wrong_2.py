# MISTAKE: Takes log_std for the log of the variance: std = exp(log_std / 2).
import torch


def gaussian_sample(mean, log_std, noise):
    std = torch.exp(0.5 * log_std)
    return mean + std * noise
