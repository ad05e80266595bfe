# STYLE: formula by hand: a centered vector and its norm
import torch


def normalize_advantages(advantages):
    c = advantages - advantages.sum() / len(advantages)
    std = torch.linalg.vector_norm(c) / (len(advantages) - 1) ** 0.5
    return c / (std + 1e-8)
