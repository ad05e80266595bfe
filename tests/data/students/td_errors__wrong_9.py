# MISTAKE: gamma also multiplies the reward.
import torch


def td_errors(rewards, values, dones, gamma):
    return torch.stack([
        gamma * (r + (1 - d) * vn) - v
        for r, d, v, vn in zip(rewards, dones, values[:-1], values[1:])
    ])
