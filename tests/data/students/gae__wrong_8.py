# MISTAKE: Uses done as if it were (1 - done): goes on only where the episode ended.
import torch


def gae(rewards, values, dones, gamma, gae_lambda):
    masks = dones
    adv = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[0])
    for step in reversed(range(rewards.size(0))):
        delta = rewards[step] + gamma * values[step + 1] * masks[step] - values[step]
        running = delta + gamma * gae_lambda * masks[step] * running
        adv[step] = running
    return adv
