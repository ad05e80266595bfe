# MISTAKE: The two coefficients are swapped.
import torch


def total_loss(pg_loss, entropy, v_loss, ent_coef, vf_coef):
    return pg_loss - vf_coef * entropy + ent_coef * v_loss
