# MISTAKE: Categorical(probs=...) clamps small probabilities to 1e-7, so unlikely actions are wrong.
import torch
from torch import Tensor
from torch.distributions import Categorical


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    return Categorical(probs=torch.softmax(logits, dim=-1)).log_prob(actions)
