# STYLE: sum over a generator of pairs
import torch
from torch import Tensor


def total_loss(pg: Tensor, h: Tensor, v: Tensor, c_h: Tensor, c_v: Tensor) -> Tensor:
    return sum((w * x for w, x in ((1.0, pg), (-c_h, h), (c_v, v))), torch.zeros(()))
