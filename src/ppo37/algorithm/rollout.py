"""Acting: T steps in N environments with the policy frozen.

Data flows one way: environments -> `Rollout` -> advantages -> update.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

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


class Environments(Protocol):
    """The part of the environment contract that a rollout needs."""

    @property
    def num_envs(self) -> int: ...

    def send(self, actions: Any) -> None: ...

    def recv(self) -> Any: ...


Act = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""act(obs [N, ...], uniforms [N]) -> actions [N], log-probabilities [N], values [N]."""


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
    groups: Sequence[Environments], act: Act, buffers: Rollout, obs: list[Any], uniforms: Tensor
) -> tuple[Rollout, list[Any], list[Any]]:
    """Fill `buffers` and return them, the observations to go on from, and the games that ended.

    groups: environments side by side, N in all. While the policy acts on one group the others
    are at work; it does not change meanwhile, so the result is that of acting on all at once.
    obs: one array [n, *obs_shape] uint8 per group, left by the rollout before; environments are
    never reset between rollouts.  uniforms: [T+1, N] in [0, 1), one for every action drawn.
    """
    num_steps = len(buffers.actions)
    episodes: list[Any] = []
    obs = list(obs)
    buffers.final_values.zero_()
    for t in range(num_steps + 1):  # D01
        start = 0
        for g, envs in enumerate(groups):
            part = slice(start, start + envs.num_envs)
            start += envs.num_envs
            if t > 0:
                step = envs.recv()
                obs[g] = step.obs
                episodes += step.episodes
                _record(step, act, buffers, t - 1, part, uniforms)
            if t == num_steps:
                seen = torch.from_numpy(obs[g]).to(uniforms.device)
                buffers.values[t, part] = act(seen, uniforms[t, part])[2]
                continue
            seen = buffers.obs[t, part].copy_(torch.from_numpy(obs[g]))
            actions, log_probs, values = act(seen, uniforms[t, part])
            envs.send(actions.cpu().numpy())
            buffers.actions[t, part] = actions
            buffers.log_probs[t, part] = log_probs
            buffers.values[t, part] = values
    return buffers, obs, episodes


def _record(step: Any, act: Act, buffers: Rollout, t: int, part: slice, uniforms: Tensor) -> None:
    """What the environments `part` answered to the actions of step t."""
    buffers.rewards[t, part] = torch.from_numpy(step.rewards).to(uniforms.device)
    buffers.dones[t, part] = torch.from_numpy(step.dones).to(uniforms)
    if step.truncated.any():
        final_obs = torch.from_numpy(step.final_obs).to(uniforms.device)
        final_values = act(final_obs, uniforms[t, part])[2]
        truncated = torch.from_numpy(step.truncated).to(uniforms.device)
        buffers.final_values[t, part] = torch.where(truncated, final_values, 0.0)
