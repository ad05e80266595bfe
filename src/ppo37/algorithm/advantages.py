"""Generalized advantage estimation: how much better each action was than expected.

Legend: T steps, N environments. `dones[t]` is 1 where step t ended the episode. `values` has T+1
rows; the last one is the value of the observation after the rollout, so no step is special.
"""

import torch
from torch import Tensor


def bootstrap_truncations(rewards: Tensor, final_values: Tensor, gamma: float) -> Tensor:
    """Add gamma * V(last observation) to the rewards [T, N] where a time limit ended the episode.

    `final_values` [T, N] holds V(last observation) at these steps and zero elsewhere. The result
    is that of an episode that goes on. The reference algorithm does not do this;
    `bootstrap_truncated=False` gives its behaviour.
    Source: Pardo et al. 2018, "Time Limits in Reinforcement Learning".
    """
    return rewards + gamma * final_values


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Compute the advantages [T, N] of a rollout, from the last step to the first.

    E6: delta_t = r_t + gamma * (1 - done_t) * V(s_{t+1}) - V(s_t)
    E7: A_t = delta_t + gamma * lambda * (1 - done_t) * A_{t+1}

    with A_T = 0.  rewards, dones: [T, N]; values: [T+1, N]; all of one floating type.
    Source: Schulman et al. 2016, equation (16).
    """
    not_done = 1.0 - dones
    deltas = rewards + gamma * not_done * values[1:] - values[:-1]
    advantages = torch.empty_like(deltas)
    advantage = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + gamma * gae_lambda * not_done[t] * advantage  # D05
        advantages[t] = advantage
    return advantages


def value_targets(advantages: Tensor, values: Tensor) -> Tensor:
    """Compute the targets [T, N] of the value function, TD(lambda) returns; `values` is [T+1, N].

    E8: R_t = A_t + V(s_t)
    """
    return advantages + values[:-1]
