# STYLE: recursion over the steps
import torch
from torch import Tensor


def gae(r: Tensor, v: Tensor, d: Tensor, g: float, lam: float) -> Tensor:
    def tail(t):
        if t == len(r):
            return []
        rest = tail(t + 1)
        following = rest[0] if rest else torch.zeros_like(v[0])
        now = r[t] + g * (1 - d[t]) * v[t + 1] - v[t] + g * lam * (1 - d[t]) * following
        return [now] + rest

    return torch.stack(tail(0))
