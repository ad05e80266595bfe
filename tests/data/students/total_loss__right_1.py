# STYLE: dot product of stacked parts and weights
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    parts = torch.stack([policy_loss, entropy, value_loss])
    weights = torch.stack([torch.ones_like(ent_coef), -ent_coef, vf_coef])
    return parts @ weights
