"""The three functions that the loop runs, for one network, optimizer and device.

They have static shapes, never call `.item()`, never branch in Python on the value of a tensor, and
get their randomness from outside. So `cuda_graphs.py` can record them once and replay them, and
the algorithm does not depend on it. The LSTM state that `act` returns, and all that `train_step`
returns, is kept by the caller, so an implementation that reuses its outputs must return copies.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..algorithm.losses import Coefficients, LossTerms
from ..algorithm.rollout import Act, Rollout, act, allocate
from ..algorithm.update import Batch, gradient_step, make_batch, minibatch
from ..config import Config, schedules
from ..networks.agent import Agent
from .network import DeviceNetwork, make_network
from .ranks import Ranks, shared_train_step, with_global_advantages

SMALL_NETWORK = 100_000
"""Parameters of a network below which several threads of PyTorch only wait for each other."""


class Executables(NamedTuple):
    """The functions act, advantages and train_step for one device."""

    acts: list[Act]
    """One for each rollout thread; the threads call them at the same time."""
    advantages: Callable[[Rollout], Batch]
    train_step: Callable[[Batch, Tensor], LossTerms]
    annealed: dict[str, Tensor]
    """Coefficients of the loss by name, 0-d; they may be changed between updates."""
    frozen_weights: Callable[[], AbstractContextManager[None]]
    """The context in which a rollout acts; the weights must not change inside."""


def eager(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    config: Config,
    threads: int = 1,
    ranks: Ranks | None = None,
) -> Executables:
    """Make the executables that run PyTorch operation by operation.

    threads: the number of rollout threads.  ranks: the processes that share the work; None for
    this process alone.
    """
    size = sum(parameter.numel() for parameter in agent.parameters())
    if config.kernels == "native" or size < SMALL_NETWORK:
        # The native kernels have their own threads; the rest is too small to be shared.
        torch.set_num_threads(1)
    network = make_network(agent, config.kernels, config.threads or 1)
    settings = {name: getattr(config, name) for name in Coefficients._fields}
    annealed = {
        name: torch.tensor(config.schedule(name)[0], device=agent.device)
        for name in schedules()
        if name in settings
    }
    coefficients = Coefficients(**{**settings, **annealed})
    acts = [make_act(network)] * threads

    def advantages(rollout: Rollout) -> Batch:
        batch = make_batch(
            Rollout(*(part.to(agent.device) for part in rollout)),
            config.gamma,
            config.gae_lambda,
            config.bootstrap_truncated,
            config.sequence_length,
        )
        arranged = network.arrange(batch.obs.flatten(0, 1))
        return batch._replace(obs=arranged.unflatten(0, batch.values.shape))

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        samples = minibatch(batch, indices)
        return gradient_step(network, optimizer, samples, coefficients, config.max_grad_norm)

    run = Executables(acts, advantages, train_step, annealed, network.frozen_weights)
    if ranks is None or ranks.size == 1:
        return run
    envs = ranks.env_slice(config.num_envs)
    return run._replace(
        advantages=lambda rollout: with_global_advantages(advantages(rollout), envs, ranks.gather),
        train_step=shared_train_step(
            network, optimizer, coefficients, config.max_grad_norm, envs, ranks.add
        ),
    )


def make_act(network: DeviceNetwork, greedy: bool = False) -> Act:
    """Make the function `algorithm.rollout.act` for a network and observations as they come.

    greedy: take the most likely actions instead of sampling.
    """

    @torch.inference_mode()
    def arranged_act(
        obs: Tensor, lstm_state: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return act(network, network.arrange(obs), lstm_state, uniforms, greedy)

    return arranged_act


def make_buffers(
    agent: Agent, num_steps: int, num_envs: int, obs_shape: tuple[int, ...]
) -> Rollout:
    """Allocate the buffers for rollouts of an agent, on its device.

    For a GPU, what comes from the environments stays in pinned memory on the CPU and is copied
    once after the rollout: launching a copy in every step takes longer than the copy itself.
    """
    buffers = allocate(
        num_steps,
        num_envs,
        obs_shape,
        agent.device,
        agent.core.state_size,
        agent.policy.action_shape,
        agent.policy.action_dtype,
        agent.obs_dtype,
    )
    if agent.device.type == "cpu":
        return buffers
    on_cpu = partial(torch.zeros, num_steps, num_envs, pin_memory=True)
    return buffers._replace(rewards=on_cpu(), dones=on_cpu(), final_values=on_cpu())


@contextmanager
def unchanged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Restore the weights and the optimizer's state at the end of the block."""
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
                # Adam starts with zeros: both moments and the number of steps.
                value.copy_(states.get(parameter, {}).get(name, torch.zeros_like(value)))
