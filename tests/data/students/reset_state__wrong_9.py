# MISTAKE: Resets only the first environment that ended (argmax), the others keep their state.
import torch


def reset_state(lstm_state, dones):
    out = lstm_state.clone()
    if dones.sum() > 0:
        out[dones.argmax()] = 0
    return out
