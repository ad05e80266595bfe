# MISTAKE: Uses the done of the next step (CleanRL's convention), and not done_t.
import torch
from torch import Tensor


def td_errors(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float) -> Tensor:
    next_done = torch.cat([dones[1:], torch.zeros_like(dones[:1])])
    return rewards + gamma * (1 - next_done) * values[1:] - values[:-1]
