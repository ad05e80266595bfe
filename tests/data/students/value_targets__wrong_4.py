# MISTAKE: Normalizes the advantages before adding the values.
import torch


def value_targets(advantages, values):
    adv = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return adv + values[:-1]
