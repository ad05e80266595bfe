# STYLE: larger absolute error first (the square grows with it), then dot product
import torch
from torch import Tensor


def value_loss(new_values: Tensor, old_values: Tensor, targets: Tensor, clip_coef: Tensor) -> Tensor:
    eps = clip_coef.item()
    v_clip = old_values + (new_values - old_values).clamp(min=-eps, max=eps)
    e = torch.maximum((new_values - targets).abs(), (v_clip - targets).abs())
    return torch.dot(e, e) / (2 * e.numel())
