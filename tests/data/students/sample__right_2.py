# STYLE: plain loops over observations and actions
import torch
from torch import Tensor


def sample(logits: Tensor, uniforms: Tensor) -> Tensor:
    actions = []
    cdf = torch.cumsum(torch.softmax(logits, dim=-1), dim=-1)
    for row, u in zip(cdf.tolist(), uniforms.tolist()):
        count = 0
        for c in row:
            if c <= u:
                count += 1
        actions.append(count)
    return torch.tensor(actions, dtype=torch.int64)
