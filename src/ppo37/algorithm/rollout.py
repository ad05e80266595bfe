"""Collect experience: T steps in each of N environments, with the weights fixed.

Data flows one way: environments -> `Rollout` -> advantages -> update. With the default settings
T = 128 and N = 8.

The functions also carry `lstm_state`, the R numbers that an LSTM remembers of each environment.
For a network without an LSTM R = 0, and what is said of it can be skipped.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from .distributions import Distribution


class Rollout(NamedTuple):
    """T steps in N environments, in buffers that the next rollout uses again."""

    obs: Tensor  # [T, N, *obs_shape] uint8, or fp32 where they are normalized
    actions: Tensor  # [T, N, *action_shape], as the policy sampled them
    log_probs: Tensor  # [T, N]
    values: Tensor  # [T+1, N]
    rewards: Tensor  # [T, N], what is learned from; raw scores are in the episodes
    dones: Tensor  # [T, N], 1 where step t ended the learning episode
    final_values: Tensor  # [T, N], V(last observation) where a time limit ended it, else 0
    lstm_state: Tensor  # [N, R], before the first step


class Network(Protocol):
    """A policy and a value function of B = M * L observations: M sequences of L steps each.

    network(obs [B, ...], lstm_state [M, R], dones [M, L])
    -> distribution over actions [B], values [B], lstm_state [M, R] after the last step.
    """

    def __call__(
        self, obs: Tensor, lstm_state: Tensor, dones: Tensor, /
    ) -> tuple[Distribution, Tensor, Tensor]: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


class StepResult(Protocol):
    """One step in each of N environments; `Step` in envs/contract.py describes the arrays."""

    @property
    def obs(self) -> NDArray[Any]: ...
    @property
    def rewards(self) -> NDArray[Any]: ...
    @property
    def dones(self) -> NDArray[Any]: ...
    @property
    def truncated(self) -> NDArray[Any]: ...
    @property
    def final_obs(self) -> NDArray[Any]: ...
    @property
    def episodes(self) -> list[Any]: ...


EnvStep = Callable[[NDArray[Any]], StepResult]
"""step(actions [N, *action_shape]) -> the result of one step in each environment."""
Act = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""The function `act` below, for one network."""


def allocate(
    num_steps: int,
    num_envs: int,
    obs_shape: tuple[int, ...],
    device: torch.device,
    lstm_size: int = 0,
    action_shape: tuple[int, ...] = (),
    action_dtype: torch.dtype = torch.int64,
    obs_dtype: torch.dtype = torch.uint8,
) -> Rollout:
    """Allocate the buffers of a rollout; pixels stay uint8, a quarter of the size of fp32."""

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
        lstm_state=zeros(num_envs, lstm_size),  # D33
    )


@torch.inference_mode()
def act(
    network: Network, obs: Tensor, lstm_state: Tensor, uniforms: Tensor, greedy: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sample an action for each observation [N, *obs_shape]; `greedy` takes the most likely.

    uniforms: [N, *action_shape] in [0, 1), the randomness.
    Returns actions [N, *action_shape], log pi(a|s) [N], V(s) [N] and the next lstm_state [N, R].
    """
    no_dones = lstm_state.new_zeros(len(obs), 1)  # `collect` resets the state itself
    distribution, values, lstm_state = network(obs, lstm_state, no_dones)
    actions = distribution.mode() if greedy else distribution.sample(uniforms)
    return actions, distribution.log_prob(actions), values, lstm_state


def collect(
    env_step: EnvStep,
    act: Act,
    buffers: Rollout,
    obs: NDArray[Any],
    lstm_state: Tensor,
    uniforms: Tensor,
) -> tuple[NDArray[Any], Tensor, list[Any]]:
    """Fill `buffers` with the next T steps.

    obs [N, *obs_shape], lstm_state [N, R]: as the previous rollout returned them; environments are
    never reset between rollouts.  uniforms: [T+1, N, *action_shape] in [0, 1).
    Returns the next obs and lstm_state, and the games that ended.
    """
    num_steps = len(buffers.rewards)
    episodes: list[Any] = []
    buffers.final_values.zero_()
    buffers.lstm_state.copy_(lstm_state)  # D36
    for t in range(num_steps):  # D01
        buffers.obs[t].copy_(torch.from_numpy(obs), non_blocking=True)
        actions, log_probs, values, lstm_state = act(buffers.obs[t], lstm_state, uniforms[t])
        buffers.actions[t] = actions
        buffers.log_probs[t] = log_probs
        buffers.values[t] = values
        step = env_step(actions.cpu().numpy())
        buffers.rewards[t] = torch.from_numpy(step.rewards)
        buffers.dones[t] = torch.from_numpy(step.dones)
        if step.truncated.any():
            final_values = _values_of(step.final_obs, act, lstm_state, uniforms[t])
            truncated = torch.from_numpy(step.truncated).to(final_values.device)
            buffers.final_values[t] = torch.where(truncated, final_values, 0.0)
        lstm_state = reset_state(lstm_state, buffers.dones[t])
        obs = step.obs
        episodes += step.episodes
    buffers.values[num_steps] = _values_of(obs, act, lstm_state, uniforms[num_steps])
    return obs, lstm_state, episodes


def reset_state(lstm_state: Tensor, dones: Tensor) -> Tensor:
    """Set the state [N, R] of an LSTM to zero where a step ended the episode (`dones` [N])."""
    if not lstm_state.numel():
        return lstm_state
    dones = dones.to(lstm_state.device, non_blocking=True)
    return lstm_state * (1.0 - dones).unsqueeze(-1)  # D34


def _values_of(obs: NDArray[Any], act: Act, lstm_state: Tensor, uniforms: Tensor) -> Tensor:
    """Compute V(s) [N] of observations in which no action is taken."""
    return act(torch.from_numpy(obs).to(uniforms.device), lstm_state, uniforms)[2]
