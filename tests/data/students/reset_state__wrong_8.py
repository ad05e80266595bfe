# MISTAKE: Multiplies by the mean of (1 - dones): all environments are scaled a bit.
import torch


def reset_state(lstm_state, dones):
    return lstm_state * (1 - dones).mean()
