"""Learning: several epochs of minibatch gradient steps on one rollout.

Legend: B = T * N samples, M in a minibatch.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .advantages import bootstrap_truncations, gae, value_targets
from .distributions import Categorical
from .losses import Coefficients, LossTerms, ppo_loss
from .rollout import Rollout


class Network(Protocol):
    """What is trained: obs [M, ...] -> distributions over actions, and values [M]."""

    def __call__(self, obs: Tensor, /) -> tuple[Categorical, Tensor]: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


class Batch(NamedTuple):
    """A rollout, flattened [T, N, ...] -> [B, ...], with what the losses need."""

    obs: Tensor  # [B, *obs_shape] uint8
    actions: Tensor  # [B] int64
    log_probs: Tensor  # [B]
    values: Tensor  # [B]
    advantages: Tensor  # [B]
    targets: Tensor  # [B]


def prepare(rollout: Rollout, gamma: float, gae_lambda: float, bootstrap_truncated: bool) -> Batch:
    """Advantages and value targets of a rollout, flattened into a batch."""
    rewards = rollout.rewards
    if bootstrap_truncated:
        rewards = bootstrap_truncations(rewards, rollout.final_values, gamma)
    advantages = gae(rewards, rollout.values, rollout.dones, gamma, gae_lambda)
    targets = value_targets(advantages, rollout.values)
    parts = (
        rollout.obs, rollout.actions, rollout.log_probs, rollout.values[:-1], advantages, targets
    )  # fmt: skip
    return Batch(*(part.flatten(0, 1) for part in parts))


def minibatch(batch: Batch, indices: Tensor) -> Batch:
    """The samples `indices` [M] of a batch."""
    return Batch(*(part.index_select(0, indices) for part in batch))


def make_optimizer(
    agent: torch.nn.Module, learning_rate: float, adam_eps: float
) -> torch.optim.Optimizer:
    """Adam over all parameters, policy and value together.

    The learning rate is a 0-d tensor, changed in place by `set_learning_rate`, so that a
    recorded step follows it. `adam_eps` is 1e-5 in the reference; PyTorch's default is 1e-8.
    """
    rate = torch.tensor(learning_rate)
    return torch.optim.Adam(agent.parameters(), lr=rate, eps=adam_eps, fused=True)  # D03


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
) -> LossTerms:
    """One optimizer step on one minibatch. Returns the terms of its loss, detached."""
    distribution, values = network(batch.obs)
    terms = ppo_loss(
        distribution.log_prob(batch.actions), distribution.entropy(), values,
        batch.log_probs, batch.values, batch.advantages, batch.targets, coefficients,
    )  # fmt: skip
    optimizer.zero_grad()
    terms.loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)  # D11
    optimizer.step()
    return terms._replace(loss=terms.loss.detach())


def update(
    train_step: Callable[[Batch, Tensor], LossTerms],
    batch: Batch,
    permutations: Tensor,
    num_minibatches: int,
    target_kl: float | None = None,
) -> dict[str, Tensor]:
    """Run every epoch over the whole batch; each sample is used exactly once per epoch.

    permutations: [epochs, B], a fresh shuffle for each epoch.  With `target_kl` the epochs stop
    once the last minibatch's `approx_kl` exceeds it.  Returns the mean of every loss term over
    the minibatches, and how much of the targets' variance the old values explained.
    """
    history: list[LossTerms] = []
    for permutation in permutations:
        for indices in permutation.split(len(permutation) // num_minibatches):  # D06
            history.append(train_step(batch, indices))
        if target_kl is not None and history[-1].approx_kl > target_kl:  # waits for the device
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
