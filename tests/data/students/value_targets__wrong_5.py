# MISTAKE: Returns the flat tensor [T * N].
import torch
from torch import Tensor


def value_targets(advantages: Tensor, values: Tensor) -> Tensor:
    return advantages.reshape(-1) + values[:-1].reshape(-1)
