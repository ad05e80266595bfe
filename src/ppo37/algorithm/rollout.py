"""Acting: T steps in N environments with the policy frozen.

Data flows one way: environments -> `Rollout` -> advantages -> update.

A network may remember: beside an observation it takes a memory of R numbers and gives the next
one. One that does not remember has R = 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rollout(NamedTuple):
    """What T steps in N environments left behind; tensors are reused by the next rollout.

    What the environments said (`rewards`, `dones`) is on the CPU, and `final_values` may be, while
    all else is on the network's device.
    """

    obs: Tensor  # [T, N, *obs_shape] uint8, or fp32 where they are normalised
    actions: Tensor  # [T, N, *action_shape], what the policy drew
    log_probs: Tensor  # [T, N]
    values: Tensor  # [T+1, N]
    rewards: Tensor  # [T, N], what is learned from; raw scores are in the episodes
    dones: Tensor  # [T, N], 1 where step t ended the learning episode
    final_values: Tensor  # [T, N], V(last observation) where only a time limit ended it
    memory: Tensor  # [N, R], what the network remembered before the first step


Act = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""act(obs [N, ...], memory [N, R], uniforms [N, *action_shape])
-> actions [N, *action_shape], log-probabilities [N], values [N], memory [N, R]."""
EnvStep = Callable[[Any], Any]
"""step(actions [N, *action_shape]) -> what `Step` of the environment contract says."""


def allocate(
    num_steps: int, num_envs: int, obs_shape: tuple[int, ...], device: torch.device,
    memory_size: int = 0, action_shape: tuple[int, ...] = (),
    action_dtype: torch.dtype = torch.int64, obs_dtype: torch.dtype = torch.uint8,
) -> Rollout:  # fmt: skip
    """Buffers for one rollout, allocated once; pixels stay uint8 (a quarter of fp32)."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return Rollout(
        obs=zeros(num_steps, num_envs, *obs_shape, dtype=obs_dtype),
        actions=zeros(num_steps, num_envs, *action_shape, dtype=action_dtype),
        log_probs=zeros(num_steps, num_envs),
        values=zeros(num_steps + 1, num_envs),
        rewards=zeros(num_steps, num_envs),
        dones=zeros(num_steps, num_envs),
        final_values=zeros(num_steps, num_envs),
        memory=zeros(num_envs, memory_size),  # D33
    )


def forget(memory: Tensor, dones: Tensor) -> Tensor:
    """Memory [N, R], empty again where a step ended the episode (`dones` [N])."""
    return memory * (1.0 - dones).unsqueeze(-1)  # D34


def collect(
    env_step: EnvStep, act: Act, buffers: Rollout, obs: Any, memory: Tensor, uniforms: Tensor
) -> tuple[Any, Tensor, list[Any]]:
    """Fill `buffers`; returns observations and memory to go on from, and the games that ended.

    obs: [N, *obs_shape] and memory: [N, R], left by the rollout before; environments are never
    reset between rollouts.  uniforms: [T+1, N, *action_shape] in [0, 1), for the actions.
    """
    device = uniforms.device
    num_steps = len(buffers.actions)
    episodes: list[Any] = []
    # Rows are made once: small operations between those of an emulator are slow.
    obs_rows, action_rows, log_prob_rows, value_rows = (part.unbind() for part in buffers[:4])
    rewards, dones = buffers.rewards.numpy(), buffers.dones.numpy()
    buffers.final_values.zero_()
    buffers.memory.copy_(memory)  # D36
    for t, draws in enumerate(uniforms[:-1].unbind()):  # D01
        seen = obs_rows[t].copy_(torch.from_numpy(obs), non_blocking=True)
        actions, log_probs, values, memory = act(seen, memory, draws)
        action_rows[t].copy_(actions)
        log_prob_rows[t].copy_(log_probs)
        value_rows[t].copy_(values)
        step = env_step(actions.cpu().numpy())
        rewards[t], dones[t] = step.rewards, step.dones
        if step.truncated.any():
            final_obs = torch.from_numpy(step.final_obs).to(device)
            final_values = act(final_obs, memory, draws)[2]
            truncated = torch.from_numpy(step.truncated).to(device)
            buffers.final_values[t] = torch.where(truncated, final_values, 0.0)
        if memory.numel():
            memory = forget(memory, buffers.dones[t].to(device, non_blocking=True))
        obs = step.obs
        episodes += step.episodes
    last = torch.from_numpy(obs).to(device)
    buffers.values[num_steps] = act(last, memory, uniforms[num_steps])[2]
    return obs, memory, episodes
