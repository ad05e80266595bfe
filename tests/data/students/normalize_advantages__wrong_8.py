# MISTAKE: F.layer_norm: divides by M and not by M - 1, and has eps 1e-5.
import torch
import torch.nn.functional as F


def normalize_advantages(advantages):
    return F.layer_norm(advantages, advantages.shape)
