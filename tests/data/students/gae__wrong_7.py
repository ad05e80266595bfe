# MISTAKE: Leaves out gamma in the recursion (discounts with lambda only).
import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    delta = rewards + gamma * (1 - dones) * values[1:] - values[:-1]
    a = torch.zeros_like(delta)
    a[-1] = delta[-1]
    for t in range(delta.shape[0] - 2, -1, -1):
        a[t] = delta[t] + gae_lambda * (1 - dones[t]) * a[t + 1]
    return a
