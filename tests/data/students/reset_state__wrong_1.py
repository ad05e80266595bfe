# MISTAKE: Keeps the state where the episode ended and sets the others to zero.
import torch
from torch import Tensor


def reset_state(lstm_state: Tensor, dones: Tensor) -> Tensor:
    return lstm_state * dones.unsqueeze(-1)
