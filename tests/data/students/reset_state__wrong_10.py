# MISTAKE: Shifts the dones by one environment.
import torch


def reset_state(lstm_state, dones):
    keep = 1 - torch.roll(dones, 1)
    return torch.einsum("nr,n->nr", lstm_state, keep)
