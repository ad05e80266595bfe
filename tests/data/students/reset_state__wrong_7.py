# MISTAKE: Forgets the reset: returns a copy of the state.
import torch
from torch import Tensor


def reset_state(lstm_state: Tensor, dones: Tensor) -> Tensor:
    state = lstm_state.clone()
    state[dones == 1].zero_()  # zeroes a copy: advanced indexing does not give a view
    return state
