# MISTAKE: Clips the normalized advantages to -2 ... 2.
import torch


def normalize_advantages(advantages):
    z = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return z.clamp(-2, 2)
