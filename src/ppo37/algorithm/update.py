"""Learn from one rollout: several epochs of gradient steps on minibatches.

Legend: S samples in a batch, M of them in a minibatch. With the default settings
S = T * N = 128 * 8 = 1,024 single steps and M = 256.

A sample has a second axis, L: for an LSTM it is a sequence of L = T steps of one environment, and
S = N. For every other network L = 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .advantages import bootstrap_truncations, gae, value_targets
from .losses import Coefficients, LossTerms, ppo_loss
from .rollout import Network, Rollout


class Batch(NamedTuple):
    """The steps of a rollout, with what the losses need of each."""

    obs: Tensor  # [S, L, *obs_shape]
    actions: Tensor  # [S, L, *action_shape]
    log_probs: Tensor  # [S, L]
    values: Tensor  # [S, L]
    advantages: Tensor  # [S, L]
    targets: Tensor  # [S, L]
    dones: Tensor  # [S, L]
    lstm_state: Tensor  # [S, R], before the first step of each sequence


def make_batch(
    rollout: Rollout, gamma: float, gae_lambda: float, bootstrap_truncated: bool, length: int = 1
) -> Batch:
    """Compute advantages and value targets, and put the steps of all environments in a row.

    length: L.
    """
    rewards = rollout.rewards
    if bootstrap_truncated:
        rewards = bootstrap_truncations(rewards, rollout.final_values, gamma)
    advantages = gae(rewards, rollout.values, rollout.dones, gamma, gae_lambda)
    targets = value_targets(advantages, rollout.values)

    def in_a_row(part: Tensor) -> Tensor:
        """[T, N, ...] -> [S, L, ...]: [T * N, 1, ...] for L = 1, [N, T, ...] for L = T."""
        return part.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1)  # D35

    return Batch(
        obs=in_a_row(rollout.obs),
        actions=in_a_row(rollout.actions),
        log_probs=in_a_row(rollout.log_probs),
        values=in_a_row(rollout.values[:-1]),
        advantages=in_a_row(advantages),
        targets=in_a_row(targets),
        dones=in_a_row(rollout.dones),
        lstm_state=rollout.lstm_state.repeat(len(rollout.actions) // length, 1),
    )


def minibatch(batch: Batch, indices: Tensor) -> Batch:
    """Select the samples `indices` [M] of a batch."""
    return Batch(*(part.index_select(0, indices) for part in batch))


def make_optimizer(
    agent: torch.nn.Module,
    learning_rate: float,
    adam_eps: float,
    adam: type[torch.optim.Adam] = torch.optim.Adam,
) -> torch.optim.Optimizer:
    """Make one Adam for all parameters, policy and value together.

    The learning rate is a 0-d tensor that `set_learning_rate` changes in place.
    adam_eps: 1e-5 in the reference; PyTorch's default is 1e-8.  adam: the class to use.
    """
    rate = torch.tensor(learning_rate)
    return adam(agent.parameters(), lr=rate, eps=adam_eps, fused=True)  # D03


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use `learning_rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"].fill_(learning_rate)


def compute_gradients(
    network: Network,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    coefficients: Coefficients,
) -> LossTerms:
    """Compute the loss of a minibatch and its gradients. Returns the terms, detached."""
    obs = batch.obs.flatten(0, 1)
    distribution, values, _ = network(obs, batch.lstm_state, batch.dones)  # D36
    terms = ppo_loss(
        distribution.log_prob(batch.actions.flatten(0, 1)),
        distribution.entropy(),
        values,
        batch.log_probs.flatten(),
        batch.values.flatten(),
        batch.advantages.flatten(),
        batch.targets.flatten(),
        coefficients,
    )
    optimizer.zero_grad()
    terms.loss.backward()
    return terms._replace(loss=terms.loss.detach())


def apply_gradients(
    network: Network, optimizer: torch.optim.Optimizer, max_grad_norm: float
) -> None:
    """Clip the gradients by their global norm and take one step of the optimizer."""
    torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)  # D11
    optimizer.step()


def gradient_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    coefficients: Coefficients,
    max_grad_norm: float,
) -> LossTerms:
    """Take one optimizer step on one minibatch. Returns the terms of its loss, detached."""
    terms = compute_gradients(network, optimizer, batch, coefficients)
    apply_gradients(network, optimizer, max_grad_norm)
    return terms


def update(
    train_step: Callable[[Batch, Tensor], LossTerms],
    batch: Batch,
    permutations: Tensor,
    num_minibatches: int,
    target_kl: float | None = None,
) -> dict[str, float]:
    """Run epochs over the whole batch; each sample is used exactly once per epoch.

    train_step: `gradient_step` on the minibatch of some indices.  permutations: [epochs, S], a
    new shuffle for each epoch.  With `target_kl` no further epoch starts once the last
    minibatch's `approx_kl` exceeds it.  Returns the mean of every loss term over
    the minibatches, and how much of the targets' variance the old values explained.
    """
    history: list[LossTerms] = []
    for permutation in permutations:
        for indices in permutation.split(len(permutation) // num_minibatches):  # D06
            history.append(train_step(batch, indices))
        if target_kl is not None and history[-1].approx_kl > target_kl:  # A3
            break
    metrics = {
        name: float(torch.stack([getattr(terms, name) for terms in history]).mean())
        for name in LossTerms._fields
    }
    metrics["explained_variance"] = float(explained_variance(batch.values, batch.targets))
    return metrics


def explained_variance(values: Tensor, targets: Tensor) -> Tensor:
    """Compute 1 - Var(R - V) / Var(R): 1 is perfect, 0 no better than a constant.

    nan if R is constant.
    """
    variance = targets.var(correction=0)
    explained = 1.0 - (targets - values).var(correction=0) / variance
    return torch.where(variance > 0, explained, torch.nan)
