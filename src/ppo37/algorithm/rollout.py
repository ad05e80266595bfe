"""Acting: T steps in N environments with the policy frozen.

Data flows one way: environments -> `Rollout` -> advantages -> update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rollout(NamedTuple):
    """What T steps in N environments left behind; tensors are reused by the next rollout."""

    obs: Tensor  # [T, N, *obs_shape] uint8
    actions: Tensor  # [T, N] int64
    log_probs: Tensor  # [T, N]
    values: Tensor  # [T+1, N]
    rewards: Tensor  # [T, N], what is learned from; raw scores are in the episodes
    dones: Tensor  # [T, N], 1 where step t ended the learning episode
    final_values: Tensor  # [T, N], V(last observation) where only a time limit ended it


Act = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""act(obs [N, ...], uniforms [N]) -> actions [N], log-probabilities [N], values [N]."""
EnvStep = Callable[[Any], Any]
"""step(actions [N]) -> what `Step` of the environment contract says."""


def allocate(
    num_steps: int, num_envs: int, obs_shape: tuple[int, ...], device: torch.device
) -> Rollout:
    """Buffers for one rollout, allocated once; observations stay uint8 (a quarter of fp32)."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return Rollout(
        obs=zeros(num_steps, num_envs, *obs_shape, dtype=torch.uint8),
        actions=zeros(num_steps, num_envs, dtype=torch.int64),
        log_probs=zeros(num_steps, num_envs),
        values=zeros(num_steps + 1, num_envs),
        rewards=zeros(num_steps, num_envs),
        dones=zeros(num_steps, num_envs),
        final_values=zeros(num_steps, num_envs),
    )


def collect(
    env_step: EnvStep, act: Act, buffers: Rollout, obs: Any, uniforms: Tensor
) -> tuple[Any, list[Any]]:
    """Fill `buffers`; returns the observations to go on from, and the games that ended.

    obs: [N, *obs_shape] uint8, left by the rollout before; environments are never reset between
    rollouts.  uniforms: [T+1, N] in [0, 1), one for every action drawn.
    """
    device = uniforms.device
    num_steps = len(buffers.actions)
    episodes: list[Any] = []
    buffers.final_values.zero_()
    for t in range(num_steps):  # D01
        seen = buffers.obs[t].copy_(torch.from_numpy(obs))
        actions, buffers.log_probs[t], buffers.values[t] = act(seen, uniforms[t])
        buffers.actions[t] = actions
        step = env_step(actions.cpu().numpy())
        buffers.rewards[t] = torch.from_numpy(step.rewards)
        buffers.dones[t] = torch.from_numpy(step.dones)
        if step.truncated.any():
            final_values = act(torch.from_numpy(step.final_obs).to(device), uniforms[t])[2]
            truncated = torch.from_numpy(step.truncated).to(device)
            buffers.final_values[t] = torch.where(truncated, final_values, 0.0)
        obs = step.obs
        episodes += step.episodes
    buffers.values[num_steps] = act(torch.from_numpy(obs).to(device), uniforms[num_steps])[2]
    return obs, episodes
