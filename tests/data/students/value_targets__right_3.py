# STYLE: element by element into a new tensor
import torch
from torch import Tensor


def value_targets(adv: Tensor, val: Tensor) -> Tensor:
    out = torch.zeros_like(adv)
    for t in range(adv.shape[0]):
        for n in range(adv.shape[1]):
            out[t, n] = adv[t, n] + val[t, n]
    return out
