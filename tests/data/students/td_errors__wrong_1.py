# MISTAKE: Forgets (1 - done): bootstraps over the end of an episode.
import torch
from torch import Tensor


def td_errors(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float) -> Tensor:
    return rewards + gamma * values[1:] - values[:-1]
