"""Distributions over actions: log-probability, entropy and sampling.

All have the same methods, so rollout, losses and update do not depend on the kind.
Sampling is a pure function: the randomness is passed in as uniform numbers.

Legend: B samples (any leading shape), A actions, D dimensions of an action.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)
MASKED_LOGIT = -1e8
"""The logit of a masked action: its probability and its part of the entropy are exactly 0."""


class Distribution(Protocol):
    """A distribution over actions [B] or [B, D]."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The tensors [B, ...] that the network computed; the self-test compares them."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Compute log pi(a|s) [B]."""

    def entropy(self) -> Tensor:
        """Compute the entropy [B] in nats."""

    def sample(self, uniforms: Tensor) -> Tensor:
        """Sample actions from uniform numbers of the same shape, fp32 in [0, 1)."""

    def mode(self) -> Tensor:
        """Return the most likely actions."""


class Categorical(NamedTuple):
    """One of A actions, given unnormalised log-probabilities `logits` [B, A], finite, in fp32."""

    logits: Tensor

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Compute log pi(a|s) [B] of `actions` [B] int64, stable also for large logits."""
        log_probs = torch.log_softmax(self.logits, dim=-1)
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Compute the entropy [B] in nats: how undecided the policy is.

        E4: H = -sum_a pi(a|s) log pi(a|s)
        """
        log_probs = torch.log_softmax(self.logits, dim=-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Sample actions [B] int64 by the inverse of the cumulative distribution.

        The action is the number of cumulative probabilities that are <= u * total. An fp32
        uniform is at most 1 - 2**-24 and the sums are fp64. So u * total is below the last entry,
        and an action of probability zero is never sampled.
        """
        cumulative = torch.softmax(self.logits.double(), dim=-1).cumsum(-1)
        threshold = uniforms.double().unsqueeze(-1) * cumulative[..., -1:]
        return (cumulative <= threshold).sum(-1)

    def mode(self) -> Tensor:
        """Return the most likely actions [B]."""
        return self.logits.argmax(-1)


class MultiCategorical(NamedTuple):
    """D independent choices, each from its own alternatives; actions [B, D] int64."""

    choices: tuple[Categorical, ...]

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(choice.logits for choice in self.choices)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Compute log pi(a|s) [B]: the sum over the choices, because they are independent."""
        columns = actions.unbind(-1)
        return sum_of(c.log_prob(a) for c, a in zip(self.choices, columns, strict=True))  # D37

    def entropy(self) -> Tensor:
        """Compute the entropy [B]: the sum over the choices."""
        return sum_of(choice.entropy() for choice in self.choices)  # D37

    def sample(self, uniforms: Tensor) -> Tensor:
        """Sample actions [B, D], each choice by its own uniform number."""
        columns = uniforms.unbind(-1)
        return torch.stack(
            [choice.sample(u) for choice, u in zip(self.choices, columns, strict=True)], dim=-1
        )

    def mode(self) -> Tensor:
        """Return the most likely alternative of each choice, [B, D]."""
        return torch.stack([choice.mode() for choice in self.choices], dim=-1)


class Gaussian(NamedTuple):
    """D independent real numbers; actions [B, D] fp32 without bounds.

    `mean` [B, D] depends on the state, the logarithm of the standard deviation `log_std` [D] does
    not.
    """

    mean: Tensor
    log_std: Tensor

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (self.mean,)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Compute the sum over dimensions of log N(a; mean, std), [B]."""
        deviations = (actions - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * deviations.square() + self.log_std + 0.5 * LOG_2PI).sum(-1)  # D25

    def entropy(self) -> Tensor:
        """Compute the sum over dimensions of log std + log(2 pi e) / 2, [B]."""
        return (self.log_std + 0.5 * (1.0 + LOG_2PI)).sum(-1).expand(self.mean.shape[:-1])  # D25

    def sample(self, uniforms: Tensor) -> Tensor:
        """Sample actions [B, D] by the inverse of the normal cumulative distribution.

        An fp32 uniform is a multiple of 2**-24. Adding half of that keeps it away from 0 and 1,
        where the inverse is infinite.
        """
        normal = torch.special.ndtri(uniforms.double() + 2.0**-25)
        return self.mean + torch.exp(self.log_std) * normal.to(self.mean.dtype)  # D23

    def mode(self) -> Tensor:
        """Return the mean [B, D]."""
        return self.mean


def mask_logits(logits: Tensor, action_mask: Tensor) -> Tensor:
    """Make actions impossible where `action_mask` [A] or [B, A] is False; logits are [B, A]."""
    return torch.where(action_mask, logits, MASKED_LOGIT)  # A4


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """Add tensors of one shape."""
    return torch.stack(tuple(parts)).sum(0)
