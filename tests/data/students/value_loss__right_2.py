# STYLE: loop over the samples with Python max / min
import torch


def value_loss(v, v_old, ret, eps):
    losses = []
    for x, o, r in zip(v, v_old, ret):
        change = max(min(x - o, eps), -eps)
        losses.append(max((x - r) ** 2, (o + change - r) ** 2))
    return torch.stack(losses).mean() / 2
