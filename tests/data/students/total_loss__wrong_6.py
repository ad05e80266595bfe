# MISTAKE: .item() on the parts: a new tensor of the right value without gradient.
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    return torch.tensor(policy_loss.item() - ent_coef.item() * entropy.item() + vf_coef.item() * value_loss.item())
