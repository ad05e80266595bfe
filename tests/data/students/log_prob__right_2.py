# STYLE: torch.distributions.Categorical
import torch
from torch import Tensor
from torch.distributions.categorical import Categorical


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    return Categorical(logits=logits).log_prob(actions)
