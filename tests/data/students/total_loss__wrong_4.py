# MISTAKE: The value loss is subtracted, as in the paper's objective to maximize, but L_pi is not turned.
import torch
from torch import Tensor


def total_loss(policy_loss: Tensor, entropy: Tensor, value_loss: Tensor, ent_coef: Tensor, vf_coef: Tensor) -> Tensor:
    return policy_loss - ent_coef * entropy - vf_coef * value_loss
