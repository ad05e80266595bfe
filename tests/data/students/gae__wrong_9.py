# MISTAKE: Runs from the first step to the last, so A_t accumulates the past and not the future.
import torch


def gae(rewards, values, dones, gamma, gae_lambda):
    adv = torch.zeros_like(rewards)
    running = 0.0
    for t in range(rewards.shape[0]):
        delta = rewards[t] + gamma * (1 - dones[t]) * values[t + 1] - values[t]
        running = delta + gamma * gae_lambda * (1 - dones[t]) * running
        adv[t] = running
    return adv
