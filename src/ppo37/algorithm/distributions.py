"""What a policy's output means: log-probabilities, entropy and sampling.

Legend: B samples (any leading shape), A actions.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Categorical(NamedTuple):
    """One of A actions, given unnormalised log-probabilities `logits` [B, A], finite, in fp32."""

    logits: Tensor

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

        `uniforms` [B] fp32 in [0, 1): the randomness comes from outside, so sampling is a pure
        function. The action is the number of cumulative probabilities that are <= u * total.
        An fp32 uniform is at most 1 - 2**-24, and the sums are fp64, so u * total stays below
        the last entry and an action of probability zero is never drawn.
        """
        cumulative = torch.softmax(self.logits.double(), dim=-1).cumsum(-1)
        threshold = uniforms.double().unsqueeze(-1) * cumulative[..., -1:]
        return (cumulative <= threshold).sum(-1)
