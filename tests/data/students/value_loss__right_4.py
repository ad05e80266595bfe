# STYLE: torch.where by comparing the two errors
import torch


def value_loss(new_values, old_values, targets, clip_coef):
    delta = new_values - old_values
    moved = torch.where(delta > clip_coef, clip_coef, torch.where(delta < -clip_coef, -clip_coef, delta))
    e1 = (new_values - targets).square()
    e2 = (old_values + moved - targets).square()
    return torch.where(e1 > e2, e1, e2).mul(0.5).mean()
