# STYLE: deltas vectorized first, then a loop over flipped rows, a list and torch.stack
import torch


def gae(rewards, values, dones, gamma, gae_lambda):
    live = 1 - dones
    deltas = rewards + gamma * live * values[1:] - values[:-1]
    acc, rows = torch.zeros_like(deltas[0]), []
    for delta, m in zip(reversed(deltas), reversed(live)):
        acc = delta + gamma * gae_lambda * m * acc
        rows.append(acc)
    rows.reverse()
    return torch.stack(rows)
