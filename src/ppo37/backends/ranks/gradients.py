"""Compute the gradient of one minibatch on several ranks.

Legend: S samples of L steps in the batch of all ranks, M of them in a minibatch and m of those on
this rank.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ...algorithm.losses import Coefficients, LossTerms, normalize_advantages
from ...algorithm.rollout import Network
from ...algorithm.update import Batch, apply_gradients, compute_gradients
from .env_slice import EnvSlice

Add = Callable[[Tensor], None]
"""Replace a tensor by its sum over all ranks; every rank gets the same bits."""
Gather = Callable[[Tensor], list[Tensor]]
"""Return the tensors of all ranks, which have one shape, in the order of the ranks."""


def with_global_advantages(batch: Batch, env_slice: EnvSlice, gather: Gather) -> Batch:
    """Return a rank's batch with the values, advantages and targets [S, L] of all ranks.

    They are needed to normalize the advantages of a whole minibatch, and to compute how much of
    the targets the values explain.
    """
    parts = gather(torch.stack([batch.values, batch.advantages, batch.targets]))
    blocks = [part.unflatten(1, (-1, env_slice.size)) for part in parts]
    values, advantages, targets = torch.cat(blocks, dim=2).flatten(1, 2).unbind(0)
    return batch._replace(values=values, advantages=advantages, targets=targets)


def rank_minibatch(
    batch: Batch, indices: Tensor, env_slice: EnvSlice, norm_adv: bool
) -> tuple[Batch, float]:
    """Select this rank's part of the minibatch `indices` [M]. Returns it and its weight m / M.

    batch: from `with_global_advantages`.  norm_adv: normalize the advantages here, over the whole
    minibatch.  A rank without a sample gets one with weight 0.
    """
    positions, own = env_slice.find(indices)
    weight = len(positions) / len(indices)
    if not len(positions):
        positions = own = indices.new_zeros(1)
    advantages = batch.advantages[indices]
    if norm_adv:
        advantages = normalize_advantages(advantages.flatten()).view_as(advantages)
    of_all_ranks = {
        "values": batch.values[indices][positions],
        "advantages": advantages[positions],
        "targets": batch.targets[indices][positions],
    }
    of_this_rank = {
        name: part.index_select(0, own)
        for name, part in batch._asdict().items()
        if name not in of_all_ranks
    }
    return Batch(**of_this_rank, **of_all_ranks), weight


def sum_gradients(
    parameters: Iterable[torch.nn.Parameter], weight: float, add: Add, terms: LossTerms
) -> LossTerms:
    """Replace the gradients by those of the whole minibatch; returns its loss terms.

    On each rank they are means over m samples, and `weight` is m / M: the sum over the ranks of
    m / M * mean over m is the mean over M. One message carries all of them.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    stacked = torch.stack(tuple(terms)).to(gradients[0].dtype)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), stacked])
    flat *= weight
    add(flat)  # A2
    *parts, stacked = flat.split([*(gradient.numel() for gradient in gradients), len(terms)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return LossTerms(*stacked.unbind())


def shared_train_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    coefficients: Coefficients,
    max_grad_norm: float,
    env_slice: EnvSlice,
    add: Add,
) -> Callable[[Batch, Tensor], LossTerms]:
    """Make the train step that all ranks compute together.

    It takes a batch from `with_global_advantages` and indices of the whole batch, which must be
    the same on all ranks. Its shapes change from step to step, as the ranks' parts do.
    """
    already_normalized = coefficients._replace(norm_adv=False)

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        samples, weight = rank_minibatch(batch, indices, env_slice, coefficients.norm_adv)
        terms = compute_gradients(network, optimizer, samples, already_normalized)
        terms = sum_gradients(network.parameters(), weight, add, terms)
        apply_gradients(network, optimizer, max_grad_norm)
        return terms

    return train_step
