# MISTAKE: The sign is wrong: expected minus happened.
import torch


def td_errors(rewards, values, dones, gamma):
    target = rewards + gamma * (1 - dones) * values[1:]
    return values[:-1] - target
