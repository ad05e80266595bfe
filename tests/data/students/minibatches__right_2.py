# STYLE: reshape and list() over the rows
import torch
from torch import Tensor


def minibatches(order: Tensor, k: int) -> list[Tensor]:
    return list(order.reshape(k, -1))
