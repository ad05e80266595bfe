# STYLE: Independent(Normal)
import torch
from torch import Tensor
from torch.distributions import Independent, Normal


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    base = Normal(mean, log_std.exp().unsqueeze(0).expand_as(mean))
    return Independent(base, 1).log_prob(actions)
