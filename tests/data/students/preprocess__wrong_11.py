# MISTAKE: The gray value is the plain mean of the three colors.
import torch
import torch.nn.functional as F


def preprocess(previous, current):
    x = torch.maximum(previous, current).float().mean(dim=-1)
    return F.avg_pool2d(x.unsqueeze(1), 4).squeeze(1)
