# MISTAKE: Off by one: numbers the actions from 1 (limited to A - 1).
import torch
from torch import Tensor


def sample(logits: Tensor, uniforms: Tensor) -> Tensor:
    c = torch.softmax(logits, -1).cumsum(-1)
    n = (c <= uniforms[:, None]).sum(-1) + 1
    return n.clamp(max=logits.shape[1] - 1)
