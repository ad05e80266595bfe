# MISTAKE: Forgets to discount: gamma is not used.
import torch


def td_errors(rewards, values, dones, gamma):
    T = rewards.shape[0]
    out = torch.zeros_like(rewards)
    for t in range(T):
        out[t] = rewards[t] + (1 - dones[t]) * values[t + 1] - values[t]
    return out
