"""Learning: several epochs of minibatch gradient steps on one rollout.

A sample is a sequence: L steps of one environment, one after the other. A network that remembers
learns from whole rollouts of an environment (L = T), any other from single steps (L = 1).

Legend: S = T * N / L sequences, M of them in a minibatch, B = M * L samples.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .advantages import bootstrap_truncations, gae, value_targets
from .distributions import Distribution
from .losses import Coefficients, LossTerms, ppo_loss
from .rollout import Rollout


class Network(Protocol):
    """What is trained: obs [B, ...] of M sequences, one after the other, the memory [M, R] before
    them and `dones` [M, L] -> distributions over actions [B], values [B], memory [M, R] after."""

    def __call__(
        self, obs: Tensor, memory: Tensor, dones: Tensor, /
    ) -> tuple[Distribution, Tensor, Tensor]: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


class Batch(NamedTuple):
    """A rollout in sequences, with what the losses need."""

    obs: Tensor  # [S, L, *obs_shape]
    actions: Tensor  # [S, L, *action_shape]
    log_probs: Tensor  # [S, L]
    values: Tensor  # [S, L]
    advantages: Tensor  # [S, L]
    targets: Tensor  # [S, L]
    dones: Tensor  # [S, L]
    memory: Tensor  # [S, R], before the first step of each sequence


def prepare(
    rollout: Rollout, gamma: float, gae_lambda: float, bootstrap_truncated: bool, length: int = 1
) -> Batch:
    """Advantages and value targets of a rollout, cut into sequences of `length` steps."""
    rewards = rollout.rewards
    if bootstrap_truncated:
        rewards = bootstrap_truncations(rewards, rollout.final_values, gamma)
    advantages = gae(rewards, rollout.values, rollout.dones, gamma, gae_lambda)
    targets = value_targets(advantages, rollout.values)

    def cut(part: Tensor) -> Tensor:
        """[T, N, ...] -> [S, L, ...]; steps of one environment stay together."""
        return part.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1)  # D35

    return Batch(
        obs=cut(rollout.obs),
        actions=cut(rollout.actions),
        log_probs=cut(rollout.log_probs),
        values=cut(rollout.values[:-1]),
        advantages=cut(advantages),
        targets=cut(targets),
        dones=cut(rollout.dones),
        memory=rollout.memory.repeat(len(rollout.actions) // length, 1),
    )


def minibatch(batch: Batch, indices: Tensor) -> Batch:
    """The sequences `indices` [M] of a batch."""
    return Batch(*(part.index_select(0, indices) for part in batch))


def make_optimizer(
    agent: torch.nn.Module, learning_rate: float, adam_eps: float,
    adam: type[torch.optim.Adam] = torch.optim.Adam,
) -> torch.optim.Optimizer:  # fmt: skip
    """Adam over all parameters, policy and value together.

    The learning rate is a 0-d tensor, changed in place by `set_learning_rate`, so that a
    recorded step follows it. `adam_eps` is 1e-5 in the reference; PyTorch's default is 1e-8.
    adam: the class that computes it.
    """
    rate = torch.tensor(learning_rate)
    return adam(agent.parameters(), lr=rate, eps=adam_eps, fused=True)  # D03


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use `learning_rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"].fill_(learning_rate)


def gradient_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    coefficients: Coefficients,
    max_grad_norm: float,
    reduce: Callable[[LossTerms], LossTerms] | None = None,
) -> LossTerms:
    """One optimizer step on one minibatch. Returns the terms of its loss, detached.

    reduce: where others compute parts of the minibatch, makes gradients and terms those of all.
    """
    obs, actions, log_probs, old_values, advantages, targets = (
        part.flatten(0, 1) for part in batch[:6]
    )
    distribution, values, _ = network(obs, batch.memory, batch.dones)  # D36
    terms = ppo_loss(
        distribution.log_prob(actions), distribution.entropy(), values,
        log_probs, old_values, advantages, targets, coefficients,
    )  # fmt: skip
    optimizer.zero_grad()
    terms.loss.backward()
    terms = terms._replace(loss=terms.loss.detach())
    if reduce is not None:
        terms = reduce(terms)  # A2
    torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)  # D11
    optimizer.step()
    return terms


def update(
    train_step: Callable[[Batch, Tensor], LossTerms],
    batch: Batch,
    permutations: Tensor,
    num_minibatches: int,
    target_kl: float | None = None,
) -> dict[str, Tensor]:
    """Run every epoch over the whole batch; each sequence is used exactly once per epoch.

    permutations: [epochs, S], a fresh shuffle for each epoch.  With `target_kl` the epochs stop
    once the last minibatch's `approx_kl` exceeds it.  Returns the mean of every loss term over
    the minibatches, and how much of the targets' variance the old values explained.
    """
    history: list[LossTerms] = []
    for permutation in permutations:
        for indices in permutation.split(len(permutation) // num_minibatches):  # D06
            history.append(train_step(batch, indices))
        # To look at the KL is to wait for the device.
        if target_kl is not None and history[-1].approx_kl > target_kl:  # A3
            break
    metrics = {
        name: torch.stack([getattr(terms, name) for terms in history]).mean()
        for name in LossTerms._fields
    }
    metrics["explained_variance"] = explained_variance(batch.values, batch.targets)
    return metrics


def explained_variance(values: Tensor, targets: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R): 1 is perfect, 0 no better than a constant; nan if R is constant."""
    variance = targets.var(correction=0)
    explained = 1.0 - (targets - values).var(correction=0) / variance
    return torch.where(variance > 0, explained, torch.nan)
