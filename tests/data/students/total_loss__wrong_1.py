# MISTAKE: Adds the entropy (+ c_ent * H), so it is minimized.
import torch
from torch import Tensor


def total_loss(policy_loss: Tensor, entropy: Tensor, value_loss: Tensor, ent_coef: Tensor, vf_coef: Tensor) -> Tensor:
    return policy_loss + ent_coef * entropy + vf_coef * value_loss
