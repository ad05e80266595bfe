# STYLE: sums of 16 shifted, strided slices
import torch


def preprocess(a, b):
    c = torch.stack((a, b)).amax(0).float()
    r, g, bl = c.unbind(-1)
    gray = 0.299 * r + 0.587 * g + 0.114 * bl
    total = 0
    for i in range(4):
        for j in range(4):
            total = total + gray[:, i::4, j::4]
    return total / 16
