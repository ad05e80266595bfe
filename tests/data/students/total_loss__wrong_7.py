# MISTAKE: Takes the negative policy loss, as if L_pi were the objective to maximize.
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    objective = policy_loss - vf_coef * value_loss + ent_coef * entropy
    return -objective
