# MISTAKE: The colors are taken in the order blue, green, red (as OpenCV).
import torch
import torch.nn.functional as F


def preprocess(previous, current):
    b, g, r = torch.max(previous, current).float().unbind(-1)
    gray = 0.299 * r + 0.587 * g + 0.114 * b
    return F.avg_pool2d(gray.unsqueeze(1), kernel_size=4).squeeze(1)
