# MISTAKE: Forgets (1 - done_t) in delta: bootstraps from the next episode's first state.
import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    A = rewards.new_zeros(rewards.shape[1])
    result = []
    for r, v, v_next, d in zip(rewards.flip(0), values[:-1].flip(0), values[1:].flip(0), dones.flip(0)):
        A = r + gamma * v_next - v + gamma * gae_lambda * (1 - d) * A
        result.insert(0, A)
    return torch.stack(result)
