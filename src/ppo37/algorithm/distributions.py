"""What a policy's output means: log-probabilities, entropy and sampling.

Every kind answers the same three questions, so that rollout, losses and update need not know
which one it is. The randomness comes from outside, as uniform numbers: sampling is a pure
function.

Legend: B samples (any leading shape), A actions, D dimensions of an action.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)
IMPOSSIBLE = -1e8
"""The logit of a masked action: its probability and its share of the entropy are exactly 0."""


class Distribution(Protocol):
    """Of actions [B] or [B, D]; `outputs` are what of it the network computes for each sample."""

    @property
    def outputs(self) -> tuple[Tensor, ...]: ...

    def log_prob(self, actions: Tensor) -> Tensor:
        """log pi(a|s) [B]."""
        ...

    def entropy(self) -> Tensor:
        """How undecided the policy is, in nats, [B]."""
        ...

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions from uniforms of their shape, fp32 in [0, 1)."""
        ...


class Categorical(NamedTuple):
    """One of A actions, given unnormalised log-probabilities `logits` [B, A], finite, in fp32."""

    logits: Tensor

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def log_prob(self, actions: Tensor) -> Tensor:
        """log pi(a|s) [B] of `actions` [B] int64, by a log-softmax (stable for large logits)."""
        log_probs = torch.log_softmax(self.logits, dim=-1)
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """How undecided the policy is, in nats, [B].

        E4: H = -sum_a pi(a|s) log pi(a|s)
        """
        log_probs = torch.log_softmax(self.logits, dim=-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions [B] int64 by the inverse of the cumulative distribution.

        The action is the number of cumulative probabilities that are <= u * total. An fp32
        uniform is at most 1 - 2**-24, and the sums are fp64, so u * total stays below the last
        entry and an action of probability zero is never drawn.
        """
        cumulative = torch.softmax(self.logits.double(), dim=-1).cumsum(-1)
        threshold = uniforms.double().unsqueeze(-1) * cumulative[..., -1:]
        return (cumulative <= threshold).sum(-1)


class MultiCategorical(NamedTuple):
    """D choices, each of its own kind and independent of the others; actions [B, D] int64."""

    choices: tuple[Categorical, ...]

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(choice.logits for choice in self.choices)

    def log_prob(self, actions: Tensor) -> Tensor:
        """The sum of the choices' log-probabilities, because they are independent, [B]."""
        columns = actions.unbind(-1)
        return sum_of(c.log_prob(a) for c, a in zip(self.choices, columns, strict=True))  # D37

    def entropy(self) -> Tensor:
        """The sum of the choices' entropies, [B]."""
        return sum_of(choice.entropy() for choice in self.choices)  # D37

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions [B, D], each choice from a uniform of its own."""
        columns = uniforms.unbind(-1)
        return torch.stack(
            [choice.sample(u) for choice, u in zip(self.choices, columns, strict=True)], dim=-1
        )


class Gaussian(NamedTuple):
    """D real numbers, independent of each other; actions [B, D] fp32 without bounds.

    `mean` [B, D] depends on the state; `log_std` [D], the logarithm of the standard deviation,
    does not.
    """

    mean: Tensor
    log_std: Tensor

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (self.mean,)

    def log_prob(self, actions: Tensor) -> Tensor:
        """The sum over dimensions of log N(a; mean, std), [B]."""
        deviations = (actions - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * deviations.square() + self.log_std + 0.5 * LOG_2PI).sum(-1)  # D25

    def entropy(self) -> Tensor:
        """The sum over dimensions of log std + log(2 pi e) / 2, [B]."""
        return (self.log_std + 0.5 * (1.0 + LOG_2PI)).sum(-1).expand(self.mean.shape[:-1])  # D25

    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions [B, D] by the inverse of the normal distribution's cumulative function.

        An fp32 uniform is a multiple of 2**-24; the middle of its interval is neither 0 nor 1.
        """
        normal = torch.special.ndtri(uniforms.double() + 2.0**-25)
        return self.mean + torch.exp(self.log_std) * normal.to(self.mean.dtype)  # D23


def masked(logits: Tensor, possible: Tensor) -> Tensor:
    """Logits [B, A] where only the `possible` actions [A] or [B, A] can be taken."""
    return torch.where(possible, logits, IMPOSSIBLE)  # A4


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(tuple(parts)).sum(0)
