# MISTAKE: repeat and view put the mask in the wrong order: entries of the flat mask cycle over environments.
import torch
from torch import Tensor


def reset_state(lstm_state: Tensor, dones: Tensor) -> Tensor:
    n, r = lstm_state.shape
    mask = (1 - dones).repeat(r).view(n, r)
    return lstm_state * mask
