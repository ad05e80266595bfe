# MISTAKE: Returns the returns (advantages + values) and not the advantages.
import torch


def gae(rewards, values, dones, gamma, gae_lambda):
    T = rewards.shape[0]
    returns = torch.zeros_like(rewards)
    g = torch.zeros_like(rewards[0])
    for t in reversed(range(T)):
        m = 1 - dones[t]
        delta = rewards[t] + gamma * m * values[t + 1] - values[t]
        g = delta + gamma * gae_lambda * m * g
        returns[t] = g + values[t]
    return returns
