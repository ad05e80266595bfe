"""The three functions that the loop runs, bound to a network, an optimizer and a device.

Their contract: static shapes, no `.item()`, no Python branch on the value of a tensor,
randomness from outside. So they may be recorded once and replayed (`graphs.py`), and the algorithm
need not know. What `act` returns of memory, and all that `train_step` returns, is kept, so an
implementation that reuses its outputs must return copies of it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ..algorithm.losses import Coefficients, LossTerms
from ..algorithm.rollout import Act, Rollout, allocate
from ..algorithm.update import Batch, gradient_step, minibatch, prepare
from ..config import Config
from ..networks.agent import Agent
from .network import Network, place
from .ranks import Team, judged_by_all, shared_train_step


class Executables(NamedTuple):
    """act, advantages and train_step, what they read, and what holds the weights for a rollout."""

    acts: list[Act]
    """One for each lane; several threads call them at once."""
    advantages: Callable[[Rollout], Batch]
    train_step: Callable[[Batch, Tensor], LossTerms]
    clip_coef: Tensor
    """0-d; the loop may change it between updates."""
    held: Callable[[], AbstractContextManager[None]]


def eager(
    agent: Agent, optimizer: torch.optim.Optimizer, config: Config, lanes: int = 1,
    team: Team | None = None,
) -> Executables:  # fmt: skip
    """Plain PyTorch.

    team: whom the work is shared with; None for nobody.
    """
    if config.kernels == "native":
        # They have threads of their own; what is left for PyTorch is too small to be shared.
        torch.set_num_threads(1)
    network = place(agent, config.kernels, config.threads or 1)
    clip_coef = torch.tensor(config.clip_coef, device=agent.device)
    coefficients = Coefficients(
        clip_coef, config.clip_vloss, config.norm_adv, config.ent_coef, config.vf_coef
    )
    acts = [make_act(network)] * lanes

    def advantages(rollout: Rollout) -> Batch:
        batch = prepare(
            Rollout(*(part.to(agent.device) for part in rollout)), config.gamma, config.gae_lambda,
            config.bootstrap_truncated, config.sequence_length,
        )  # fmt: skip
        arranged = network.arrange(batch.obs.flatten(0, 1))
        return batch._replace(obs=arranged.unflatten(0, batch.values.shape))

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        samples = minibatch(batch, indices)
        return gradient_step(network, optimizer, samples, coefficients, config.max_grad_norm)

    if team is None or team.size == 1:
        return Executables(acts, advantages, train_step, clip_coef, network.held)

    share, gather = team.share(config.num_envs), team.gather
    together = shared_train_step(
        network, optimizer, coefficients, config.max_grad_norm, share, team.add
    )

    def judged(rollout: Rollout) -> Batch:
        return judged_by_all(advantages(rollout), share, gather)

    return Executables(acts, judged, together, clip_coef, network.held)


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
    """What rollouts of an agent are kept in, on its device.

    What comes from the environments step by step is kept on the CPU, where a GPU reads it at once
    when the rollout has ended: to ask for a copy takes longer than to make it.
    """
    buffers = allocate(
        num_steps, num_envs, obs_shape, agent.device, agent.core.memory_size,
        agent.policy.action_shape, agent.policy.action_dtype, agent.obs_dtype,
    )  # fmt: skip
    if agent.device.type == "cpu":
        return buffers
    here = {
        name: torch.zeros(num_steps, num_envs, pin_memory=True)
        for name in ("rewards", "dones", "final_values")
    }
    return buffers._replace(**here)


@contextmanager
def unchanged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Afterwards weights and the optimizer's state have the values that they had before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    weights = [p.detach().clone() for p in parameters]
    states = {
        parameter: {name: value.clone() for name, value in state.items()}
        for parameter, state in optimizer.state.items()
    }
    try:
        yield
    finally:
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.detach().copy_(weight)
            for name, value in optimizer.state[parameter].items():
                # Adam begins with zeros: moments, and the number of steps.
                value.copy_(states.get(parameter, {}).get(name, torch.zeros_like(value)))
