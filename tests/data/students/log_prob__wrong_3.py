# MISTAKE: Returns [B, 1]: forgets to squeeze after gather.
import torch
from torch import Tensor


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.log_softmax(dim=1).gather(1, actions[:, None])
