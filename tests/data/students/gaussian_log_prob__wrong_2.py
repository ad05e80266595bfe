# MISTAKE: Forgets the sum over the dimensions, so the result is [B, D].
import torch
from torch import Tensor
from torch.distributions.normal import Normal


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    std = torch.exp(log_std).expand_as(mean)
    return Normal(mean, std).log_prob(actions)
