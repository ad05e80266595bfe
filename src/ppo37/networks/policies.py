"""What the outputs of the policy head mean: one kind of policy for each action space.

Legend: B samples, A actions, D dimensions of an action.
"""

import torch
from torch import Tensor, nn

from ..algorithm.distributions import Categorical, Distribution, Gaussian, MultiCategorical, masked


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
    """D independent choices of `sizes` each, from the outputs of a single head."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__(sum(sizes))
        self._sizes = sizes
        self.action_shape = (len(sizes),)

    def forward(self, outputs: Tensor) -> Distribution:
        parts = outputs.split(self._sizes, dim=-1)  # D37
        return MultiCategorical(tuple(map(Categorical, parts)))


class GaussianPolicy(Policy):
    """D real numbers; their standard deviations are learned, but the same in every state."""

    action_dtype = torch.float32

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.action_shape = (dimensions,)
        self.log_std = nn.Parameter(torch.zeros(dimensions))  # D24

    def forward(self, outputs: Tensor) -> Distribution:
        return Gaussian(outputs, self.log_std)


class MaskedPolicy(Policy):
    """A policy of choices of which some, those that are not `possible`, are never taken."""

    def __init__(self, policy: Policy, possible: list[bool]) -> None:
        super().__init__(policy.num_outputs)
        self.action_shape, self.action_dtype = policy.action_shape, policy.action_dtype
        self.policy = policy
        self.register_buffer("possible", torch.tensor(possible))

    def forward(self, outputs: Tensor) -> Distribution:
        outputs = masked(outputs, self.get_buffer("possible"))  # A4
        distribution: Distribution = self.policy(outputs)
        return distribution


def make_policy(
    action_space: str, sizes: tuple[int, ...], possible: list[bool] | None = None
) -> Policy:
    """The policy of an action space whose actions have parts of `sizes` choices each.

    possible: which outputs can be chosen; None: all.
    """
    if action_space == "continuous":
        return GaussianPolicy(len(sizes))
    several = action_space == "joystick"
    policy = MultiCategoricalPolicy(sizes) if several else CategoricalPolicy(*sizes)
    return policy if possible is None else MaskedPolicy(policy, possible)
