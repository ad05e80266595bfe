# MISTAKE: Squashes the action with tanh, as SAC does.
import torch


def gaussian_sample(mean, log_std, noise):
    return torch.tanh(mean + torch.exp(log_std) * noise)
