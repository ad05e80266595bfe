# MISTAKE: Squared errors.
import torch


def td_errors(rewards, values, dones, gamma):
    delta = rewards + gamma * (1 - dones) * values[1:] - values[:-1]
    return delta ** 2
