# MISTAKE: An ended episode in one environment masks the step for all environments.
import torch


def td_errors(rewards, values, dones, gamma):
    rows = []
    for t in range(len(rewards)):
        boot = 0.0 if dones[t].any() else gamma
        rows.append(rewards[t] + boot * values[t + 1] - values[t])
    return torch.stack(rows)
