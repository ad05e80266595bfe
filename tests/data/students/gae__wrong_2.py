# MISTAKE: Forgets (1 - done_t) in the recursion, so advantages leak over the end of an episode.
import torch
from torch import Tensor


def gae(rewards, values, dones, gamma, gae_lambda):
    deltas = rewards + gamma * (1 - dones) * values[1:] - values[:-1]
    adv = torch.zeros_like(rewards)
    acc = torch.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        acc = deltas[t] + gamma * gae_lambda * acc
        adv[t] = acc
    return adv
