"""Generalised advantage estimation: from a rollout to what the losses need.

Legend: T steps, N environments. `dones[t]` says that step t ended the episode, and
`values` has T+1 rows, the last being the value of the observation after the rollout.
With these two conventions no step is special.
"""

import torch
from torch import Tensor


def bootstrap_truncations(rewards: Tensor, final_values: Tensor, gamma: float) -> Tensor:
    """Rewards [T, N] where an episode that was only cut off still gets its future.

    `final_values` [T, N] holds V(last observation) at steps where a time limit, not the game,
    ended the episode, and zero elsewhere. Adding gamma * V there is the same as not stopping
    (Pardo et al. 2018, "Time Limits in Reinforcement Learning"). The reference algorithm does
    not do this; `bootstrap_truncated=False` gives its behaviour.
    """
    return rewards + gamma * final_values


def gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Advantages [T, N] of a rollout.

    E6: delta_t = r_t + gamma * (1 - done_t) * V(s_{t+1}) - V(s_t)
    E7: A_t = delta_t + gamma * lambda * (1 - done_t) * A_{t+1}

    with A_T = 0.  rewards, dones: [T, N]; values: [T+1, N]; all of one floating type.
    Source: Schulman et al. 2016, equation (16), computed backwards.
    """
    alive = 1.0 - dones
    deltas = rewards + gamma * alive * values[1:] - values[:-1]
    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + gamma * gae_lambda * alive[t] * following  # D05
        advantages[t] = following
    return advantages


def value_targets(advantages: Tensor, values: Tensor) -> Tensor:
    """TD(lambda) returns [T, N], what the values are trained on; `values` is [T+1, N].

    E8: R_t = A_t + V(s_t)
    """
    return advantages + values[:-1]
