"""Policies: how the outputs of the policy head become a distribution over actions.

Legend: B samples, A actions, D dimensions of an action.
"""

import torch
from torch import Tensor, nn

from ..algorithm.distributions import (
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
    mask_logits,
)


class Policy(nn.Module):
    """forward(outputs [B, num_outputs]) -> distribution over actions [B, *action_shape]."""

    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs


class CategoricalPolicy(Policy):
    """One of A actions."""

    def forward(self, outputs: Tensor) -> Distribution:
        return Categorical(outputs)


class MultiCategoricalPolicy(Policy):
    """D independent choices with `action_dims` alternatives each, from one head."""

    def __init__(self, action_dims: tuple[int, ...]) -> None:
        super().__init__(sum(action_dims))
        self._action_dims = action_dims
        self.action_shape = (len(action_dims),)

    def forward(self, outputs: Tensor) -> Distribution:
        logits = outputs.split(self._action_dims, dim=-1)  # D37
        return MultiCategorical(tuple(map(Categorical, logits)))


class GaussianPolicy(Policy):
    """D real numbers; their standard deviations are learned and do not depend on the state."""

    action_dtype = torch.float32

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.action_shape = (dimensions,)
        self.log_std = nn.Parameter(torch.zeros(dimensions))  # D24

    def forward(self, outputs: Tensor) -> Distribution:
        return Gaussian(outputs, self.log_std)


class MaskedPolicy(Policy):
    """A policy of choices that never takes an action whose entry in `action_mask` is False."""

    def __init__(self, policy: Policy, action_mask: list[bool]) -> None:
        super().__init__(policy.num_outputs)
        self.action_shape, self.action_dtype = policy.action_shape, policy.action_dtype
        self.policy = policy
        self.register_buffer("action_mask", torch.tensor(action_mask))

    def forward(self, outputs: Tensor) -> Distribution:
        logits = mask_logits(outputs, self.get_buffer("action_mask"))  # A4
        distribution: Distribution = self.policy(logits)
        return distribution


def make_policy(
    action_space: str,
    action_names: tuple[str, ...],
    action_dims: tuple[int, ...],
    action_mask: list[bool] | None = None,
) -> Policy:
    """Make the policy of an action space.

    action_names, action_dims: see `envs.contract.Spaces`.  action_mask: one entry per output, True
    where it may be chosen; None if all may.
    """
    if action_space == "continuous":
        return GaussianPolicy(len(action_names))
    single = action_space == "discrete"
    policy = CategoricalPolicy(*action_dims) if single else MultiCategoricalPolicy(action_dims)
    return policy if action_mask is None else MaskedPolicy(policy, action_mask)
