# STYLE: a matrix of weights for each environment (cumulative products) and einsum, without a loop over steps from the end
import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    T, N = rewards.shape
    live = 1 - dones
    delta = rewards + gamma * live * values[1:] - values[:-1]
    c = gamma * gae_lambda * live
    W = torch.zeros(T, T, N)
    for t in range(T):
        W[t, t] = 1.0
        W[t, t + 1:] = torch.cumprod(c[t:T - 1], dim=0)
    return torch.einsum("tsn,sn->tn", W, delta)
