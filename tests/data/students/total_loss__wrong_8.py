# MISTAKE: A second factor 1/2 on the value loss.
import torch
from torch import Tensor


def total_loss(policy_loss: Tensor, entropy: Tensor, value_loss: Tensor, ent_coef: Tensor, vf_coef: Tensor) -> Tensor:
    return policy_loss - ent_coef * entropy + 0.5 * vf_coef * value_loss
