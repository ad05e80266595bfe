# MISTAKE: Averages the three parts (divides by 3).
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    return torch.stack([policy_loss, -ent_coef * entropy, vf_coef * value_loss]).mean()
