"""The three functions that the loop runs, bound to a network, an optimizer and a device.

Their contract: static shapes, no `.item()`, no Python branch on the value of a tensor,
randomness from outside. So an implementation may record them once and replay them, and the
algorithm need not know. `act` is called by several threads at once, for batches of different
sizes. What `train_step` returns is kept until the end of the update, so an
implementation that reuses its outputs must return copies.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from ..algorithm.losses import Coefficients, LossTerms
from ..algorithm.rollout import Act, Rollout, allocate
from ..algorithm.update import Batch, gradient_step, minibatch, prepare
from ..config import Config
from ..model import Agent
from .distributed import Team, judged_by_all, shared_train_step
from .network import Network, place


class Executables(NamedTuple):
    """act, advantages and train_step, and the context that holds the weights for a rollout."""

    act: Act
    advantages: Callable[[Rollout], Batch]
    train_step: Callable[[Batch, Tensor], LossTerms]
    held: Callable[[], AbstractContextManager[None]]


def eager(
    agent: Agent, optimizer: torch.optim.Optimizer, config: Config, clip_coef: Tensor,
    team: Team | None = None,
) -> Executables:  # fmt: skip
    """Plain PyTorch. `clip_coef` is a 0-d tensor that the loop may change between updates.

    team: whom the work is shared with; None for nobody.
    """
    network = place(agent)
    coefficients = Coefficients(
        clip_coef, config.clip_vloss, config.norm_adv, config.ent_coef, config.vf_coef
    )

    def advantages(rollout: Rollout) -> Batch:
        batch = prepare(
            rollout, config.gamma, config.gae_lambda, config.bootstrap_truncated,
            config.sequence_length,
        )  # fmt: skip
        arranged = network.arrange(batch.obs.flatten(0, 1))
        return batch._replace(obs=arranged.unflatten(0, batch.values.shape))

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        samples = minibatch(batch, indices)
        return gradient_step(network, optimizer, samples, coefficients, config.max_grad_norm)

    if team is None or team.size == 1:
        return Executables(make_act(network), advantages, train_step, network.held)

    share, gather = team.share(config.num_envs), team.gather
    together = shared_train_step(
        network, optimizer, coefficients, config.max_grad_norm, share, team.add
    )

    def judged(rollout: Rollout) -> Batch:
        return judged_by_all(advantages(rollout), share, gather)

    return Executables(make_act(network), judged, together, network.held)


def make_act(network: Network) -> Act:
    """The policy as a function of observations, memory and uniforms."""

    @torch.inference_mode()
    def act(obs: Tensor, memory: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        goes_on = memory.new_zeros(len(obs), 1)  # sequences of one step
        distribution, values, memory = network(network.arrange(obs), memory, goes_on)
        actions = distribution.sample(uniforms)
        return actions, distribution.log_prob(actions), values, memory

    return act


def make_buffers(
    agent: Agent, num_steps: int, num_envs: int, obs_shape: tuple[int, ...]
) -> Rollout:
    """What rollouts of an agent are kept in, on its device."""
    return allocate(
        num_steps, num_envs, obs_shape, agent.device, agent.core.memory_size,
        agent.policy.action_shape, agent.policy.action_dtype, agent.obs_dtype,
    )  # fmt: skip
