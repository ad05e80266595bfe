# STYLE: transpose, multiply, transpose back
import torch
from torch import Tensor


def reset_state(h: Tensor, d: Tensor) -> Tensor:
    return (h.T * (1 - d)).T
