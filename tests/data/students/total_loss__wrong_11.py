# MISTAKE: Fixed coefficients 0.01 and 0.5, not those given.
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    return policy_loss - 0.01 * entropy + 0.5 * value_loss
