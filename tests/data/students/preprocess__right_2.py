# STYLE: reshape into blocks and einsum
import torch


def preprocess(previous, current):
    n, h, w, _ = current.shape
    x = torch.where(previous > current, previous, current).float()
    x = x.reshape(n, h // 4, 4, w // 4, 4, 3)
    return torch.einsum("niajbc,c->nij", x, torch.tensor([0.299, 0.587, 0.114])) / 16
