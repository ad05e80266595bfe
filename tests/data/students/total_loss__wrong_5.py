# MISTAKE: Forgets the weight of the value loss.
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    return policy_loss - ent_coef * entropy + value_loss
