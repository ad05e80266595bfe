# MISTAKE: The arguments are taken in the order policy, value, entropy.
import torch


def total_loss(policy_loss, value_loss, entropy, ent_coef, vf_coef):
    return policy_loss - ent_coef * entropy + vf_coef * value_loss
