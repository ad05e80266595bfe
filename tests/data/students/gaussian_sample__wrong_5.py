# MISTAKE: Clamps the action to -1 ... 1.
import torch
from torch import Tensor


def gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    action = mean + log_std.exp() * noise
    return action.clamp(-1.0, 1.0)
