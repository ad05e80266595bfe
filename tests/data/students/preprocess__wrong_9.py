# MISTAKE: Max pooling and not the mean of each block.
import torch
import torch.nn.functional as F


def preprocess(previous, current):
    x = torch.maximum(previous, current).to(torch.float32)
    gray = (x * torch.tensor([0.299, 0.587, 0.114])).sum(-1)
    return F.max_pool2d(gray.unsqueeze(1), 4, 4).squeeze(1)
