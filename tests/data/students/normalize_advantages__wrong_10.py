# MISTAKE: Scales to 0 ... 1 by minimum and maximum.
import torch


def normalize_advantages(advantages):
    lo, hi = advantages.min(), advantages.max()
    return (advantages - lo) / (hi - lo + 1e-8)
