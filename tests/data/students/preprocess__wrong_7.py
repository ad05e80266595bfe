# MISTAKE: The gray value is rounded down to uint8 before the mean.
import torch
from torch import Tensor


def preprocess(previous: Tensor, current: Tensor) -> Tensor:
    x = torch.maximum(previous, current).float()
    gray = (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]).to(torch.uint8)
    n, h, w = gray.shape
    return gray.float().view(n, h // 4, 4, w // 4, 4).mean(dim=(2, 4))
