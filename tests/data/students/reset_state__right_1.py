# STYLE: masked_fill with a column mask
import torch


def reset_state(lstm_state, dones):
    return lstm_state.masked_fill(dones.bool()[:, None], 0.0)
