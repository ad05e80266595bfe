# STYLE: torch.where on the next values
import torch


def td_errors(rewards, values, dones, gamma):
    nxt = torch.where(dones == 1, torch.zeros_like(rewards), values[1:])
    return rewards + gamma * nxt - values[:-1]
