# MISTAKE: The mask of the recursion is that of the next step: A_{t+1} is multiplied by (1 - done_{t+1}).
import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    not_done = 1 - dones
    delta = rewards + gamma * not_done * values[1:] - values[:-1]
    shifted = torch.cat([not_done[1:], torch.ones_like(not_done[:1])])
    acc = torch.zeros_like(delta[0])
    rows = []
    for d, m in zip(delta.flip(0), shifted.flip(0)):
        acc = d + gamma * gae_lambda * m * acc
        rows.append(acc)
    return torch.stack(rows[::-1])
