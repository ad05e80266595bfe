# MISTAKE: Adds the weighted colors as uint8, so the result is cut to whole numbers for each color.
import torch
import torch.nn.functional as F


def preprocess(previous, current):
    x = torch.maximum(previous, current)
    r, g, b = [(w * x[..., i]).to(torch.uint8) for i, w in enumerate((0.299, 0.587, 0.114))]
    gray = (r + g + b).float()
    return F.avg_pool2d(gray[:, None], 4)[:, 0]
