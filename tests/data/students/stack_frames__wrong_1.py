# MISTAKE: The newest picture is put first, not last.
import torch
from torch import Tensor


def stack_frames(stack: Tensor, picture: Tensor, starts: Tensor) -> Tensor:
    old = stack[:, :-1] * (1 - starts)[:, None, None, None]
    return torch.cat([picture.unsqueeze(1), old], dim=1)
