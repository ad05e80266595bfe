# MISTAKE: Does not bootstrap at the last step of the rollout (treated as the end of an episode).
import torch
from torch import Tensor


def td_errors(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float) -> Tensor:
    ended = dones.clone()
    ended[-1] = 1
    return rewards + gamma * (1 - ended) * values[1:] - values[:-1]
