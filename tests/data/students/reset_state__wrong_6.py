# MISTAKE: Removes the rows of ended episodes, so the result has fewer rows.
import torch
from torch import Tensor


def reset_state(lstm_state: Tensor, dones: Tensor) -> Tensor:
    return lstm_state[dones == 0]
