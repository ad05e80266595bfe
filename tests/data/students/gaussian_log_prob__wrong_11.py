# MISTAKE: MultivariateNormal gets diag(std) as its covariance, which should be diag(std^2).
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    cov = torch.diag(log_std.exp())
    return MultivariateNormal(mean, cov).log_prob(actions)
