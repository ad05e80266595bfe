# STYLE: permute and one convolution with stride 4 whose kernel has the gray weights / 16
import torch
import torch.nn.functional as F
from torch import Tensor


def preprocess(previous: Tensor, current: Tensor) -> Tensor:
    x = torch.maximum(previous, current).permute(0, 3, 1, 2).float()
    w = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1).expand(1, 3, 4, 4) / 16
    return F.conv2d(x, w, stride=4)[:, 0]
