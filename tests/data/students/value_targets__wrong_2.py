# MISTAKE: Subtracts the value.
import torch
from torch import Tensor


def value_targets(advantages: Tensor, values: Tensor) -> Tensor:
    return advantages - values[:-1]
