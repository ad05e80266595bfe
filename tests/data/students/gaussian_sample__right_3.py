# STYLE: scales the noise with a diagonal matrix
import torch


def gaussian_sample(mu, log_sigma, eps):
    return mu + eps @ torch.diag(torch.exp(log_sigma))
