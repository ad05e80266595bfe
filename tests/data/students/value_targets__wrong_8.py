# MISTAKE: Sums the advantages to the end of the rollout first (as if they were rewards).
import torch


def value_targets(advantages, values):
    to_go = advantages.flip(0).cumsum(0).flip(0)
    return to_go + values[:-1]
