# MISTAKE: Clamps log_std to -2 ... 0.5 (limits copied from another implementation).
import torch

LOG_STD_MIN, LOG_STD_MAX = -2.0, 0.5


def gaussian_sample(mean, log_std, noise):
    s = torch.clamp(log_std, LOG_STD_MIN, LOG_STD_MAX)
    return mean + s.exp() * noise
