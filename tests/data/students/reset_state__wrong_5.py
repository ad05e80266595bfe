# MISTAKE: Only the first number of the state is set to zero.
import torch


def reset_state(lstm_state, dones):
    out = lstm_state.clone()
    out[dones == 1, 0] = 0
    return out
