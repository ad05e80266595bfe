# MISTAKE: Leaves out the constant log(2 pi) / 2 because it does not change the gradient.
import torch


def gaussian_log_prob(mean, log_std, actions):
    z = (actions - mean) / torch.exp(log_std)
    return (-0.5 * z.square() - log_std).sum(dim=-1)
