# MISTAKE: The value after the rollout is ignored: roll gives V(s_0) as the next value of the last step.
import torch
from torch import Tensor


def td_errors(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float) -> Tensor:
    v = values[:-1]
    return rewards + gamma * (1 - dones) * torch.roll(v, -1, dims=0) - v
