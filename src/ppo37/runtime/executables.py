"""The three functions that the loop runs, bound to a network, an optimizer and a device.

Their contract: static shapes, no `.item()`, no Python branch on the value of a tensor,
randomness from outside. So an implementation may record them once and replay them, and the
algorithm need not know. What `train_step` returns is kept until the end of the update, so an
implementation that reuses its outputs must return copies.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ..algorithm.losses import Coefficients, LossTerms
from ..algorithm.rollout import Act, Rollout
from ..algorithm.update import Batch, gradient_step, minibatch, prepare
from ..config import Config
from ..model import Agent
from .device import usable_cores
from .network import Network, place


class Executables(NamedTuple):
    """act, advantages and train_step, and the context that a rollout runs in."""

    act: Act
    advantages: Callable[[Rollout], Batch]
    train_step: Callable[[Batch, Tensor], LossTerms]
    acting: Callable[[], AbstractContextManager[None]]


def eager(
    agent: Agent, optimizer: torch.optim.Optimizer, config: Config, clip_coef: Tensor
) -> Executables:
    """Plain PyTorch. `clip_coef` is a 0-d tensor that the loop may change between updates."""
    network = place(agent)
    coefficients = Coefficients(
        clip_coef, config.clip_vloss, config.norm_adv, config.ent_coef, config.vf_coef
    )

    def advantages(rollout: Rollout) -> Batch:
        batch = prepare(rollout, config.gamma, config.gae_lambda, config.bootstrap_truncated)
        return batch._replace(obs=network.arrange(batch.obs))

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        samples = minibatch(batch, indices)
        return gradient_step(network, optimizer, samples, coefficients, config.max_grad_norm)

    # The emulator needs cores while the policy acts, and spinning helpers of a thread pool would
    # take them: half of the cores act.
    threads = max(1, usable_cores() // 2)
    return Executables(make_act(network), advantages, train_step, lambda: acting(network, threads))


def make_act(network: Network) -> Act:
    """The policy as a function of observations and uniforms."""

    @torch.no_grad()
    def act(obs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distribution, values = network(network.arrange(obs))
        actions = distribution.sample(uniforms)
        return actions, distribution.log_prob(actions), values

    return act


@contextmanager
def acting(network: Network, threads: int | None = None) -> Iterator[None]:
    """Hold the weights still, and give the network `threads`; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with network.held():
            yield
    finally:
        torch.set_num_threads(before)
