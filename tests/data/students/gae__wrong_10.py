# MISTAKE: Never computes the last step: the loop starts at T - 2 and A_{T-1} stays 0.
import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    T = rewards.shape[0]
    advantages = torch.zeros_like(rewards)
    for t in range(T - 2, -1, -1):
        live = 1 - dones[t]
        delta = rewards[t] + gamma * live * values[t + 1] - values[t]
        advantages[t] = delta + gamma * gae_lambda * live * advantages[t + 1]
    return advantages
