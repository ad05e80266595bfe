# MISTAKE: Uses the 0/1 floats as row indices, so it always zeroes rows 0 and 1.
import torch


def reset_state(lstm_state, dones):
    new = lstm_state.clone()
    new[dones.long().clamp(max=len(new) - 1)] = 0.0
    return new
