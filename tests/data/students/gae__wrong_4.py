# MISTAKE: The list that was built from the last step to the first is not reversed.
import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    out = []
    last = torch.zeros(rewards.shape[1])
    for t in reversed(range(rewards.shape[0])):
        not_done = 1 - dones[t]
        delta = rewards[t] + gamma * not_done * values[t + 1] - values[t]
        last = delta + gamma * gae_lambda * not_done * last
        out.append(last)
    return torch.stack(out)
