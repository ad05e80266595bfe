# MISTAKE: vf_coef also multiplies the entropy bonus (brackets).
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    return policy_loss + vf_coef * (value_loss - ent_coef * entropy)
