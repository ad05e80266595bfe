# MISTAKE: Uses log_std as if it were the standard deviation.
import torch
from torch import Tensor


def gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    return mean + log_std * noise
