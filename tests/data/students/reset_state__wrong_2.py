# MISTAKE: Resets all environments as soon as one of them ended.
import torch
from torch import Tensor


def reset_state(lstm_state: Tensor, dones: Tensor) -> Tensor:
    if dones.any():
        return torch.zeros_like(lstm_state)
    return lstm_state.clone()
