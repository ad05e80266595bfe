# MISTAKE: Leaves out lambda in the recursion (discounts with gamma only).
import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    adv = torch.empty_like(rewards)
    nxt = torch.zeros_like(rewards[-1])
    keep = gamma * (1.0 - dones)
    for t in reversed(range(adv.size(0))):
        nxt = rewards[t] + keep[t] * values[t + 1] - values[t] + keep[t] * nxt
        adv[t] = nxt
    return adv
