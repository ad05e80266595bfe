# STYLE: element by element in plain Python
import torch
from torch import Tensor


def td_errors(r: Tensor, v: Tensor, d: Tensor, g: float) -> Tensor:
    T, N = r.shape
    return torch.tensor([
        [float(r[t, n]) + (0.0 if d[t, n] else g * float(v[t + 1, n])) - float(v[t, n]) for n in range(N)]
        for t in range(T)
    ], dtype=torch.float32)
