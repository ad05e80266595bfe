"""The agent: observations in, a distribution over actions and a value out.

A trunk reads single observations (`nature.py`, `mlp.py`), an LSTM may follow it (`lstm.py`), and
two heads compute the policy and the value. bf16 is used in the layers of the trunk only; all else
is fp32. To add a network, write its trunk in a file of its own, add a line to `NETWORKS` and a
case to `make_trunk`, and its name to `network` and `COMPATIBLE_NETWORKS` in config.py.

Legend: M sequences of L steps, B = M * L samples, F features, R numbers of LSTM state, A actions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..algorithm.distributions import Distribution
from ..errors import UsageError
from .layers import layers_of, orthogonal
from .lstm import LSTM, FeedForward
from .mlp import MLP
from .nature import NatureCNN, zero_mean_init
from .policies import Policy
from .statistics import RunningStatistics


class NetworkSpec(NamedTuple):
    """The sizes of a network; without `channels` it is an MLP instead of a CNN."""

    channels: tuple[int, int, int] | None
    """Output channels of the three convolutions."""
    features: int
    """Outputs of each dense layer."""
    cells: int = 0
    """Cells of the LSTM; 0 for none."""
    separate_critic: bool = False
    """Whether the value function has dense layers of its own."""


NETWORKS = {
    "nature": NetworkSpec((32, 64, 64), 512),
    "nature_half": NetworkSpec((16, 32, 32), 256),
    "lstm": NetworkSpec((32, 64, 64), 512, 128),
    "mlp": NetworkSpec(None, 64, separate_critic=True),  # D26
    "mlp_shared": NetworkSpec(None, 64),
}

LARGEST_SIDE = 4096
"""The most pixels per side; more than any screen has."""


class Agent(nn.Module):
    """A policy and a value function on one trunk.

    forward(obs [B, *obs_shape] uint8, lstm_state [M, R], dones [M, L])
    -> (distribution over actions [B], values [B], lstm_state [M, R]), fp32.
    With `bf16` the trunk computes in bfloat16 by autocast; parameters stay fp32. With `norm_obs`
    or `norm_reward` the agent holds the statistics that normalize its observations or rewards;
    with `norm_obs`, `forward` expects normalized fp32 observations.
    """

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        policy: Policy,
        network: str,
        seed: int,
        zero_mean: bool = False,
        norm_obs: bool = False,
        norm_reward: bool = False,
        obs_dtype: str = "uint8",
    ) -> None:
        """Initialize all layers. zero_mean: the first convolution by `zero_mean_init`."""
        super().__init__()
        spec = NETWORKS[network]
        self.trunk = make_trunk(obs_shape, spec)
        features = spec.features * (1 + self.trunk.separate_critic)
        self.core = LSTM(features, spec.cells) if spec.cells else FeedForward(features)
        head_inputs = self.core.features // (1 + self.trunk.separate_critic)
        self.policy_head = nn.Linear(head_inputs, policy.num_outputs)
        self.policy = policy
        self.value_head = nn.Linear(head_inputs, 1)
        self.obs_statistics = RunningStatistics(obs_shape) if norm_obs else None
        self.return_statistics = RunningStatistics(()) if norm_reward else None
        self.bf16 = False
        self._obs_dtype = getattr(torch, obs_dtype)
        generator = torch.Generator().manual_seed(seed)
        for layer in layers_of(self.trunk):
            orthogonal(layer, math.sqrt(2.0), generator)  # D02
        if zero_mean and isinstance(self.trunk, NatureCNN):
            zero_mean_init(self.trunk.conv1)
        for layer in layers_of(self.core):
            orthogonal(layer, 1.0, generator)  # D32
        orthogonal(self.policy_head, 0.01, generator)  # D02
        orthogonal(self.value_head, 1.0, generator)  # D02

    def forward(
        self, obs: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        # Autocast's cache is global to the process, and several threads act at once.
        with torch.autocast(
            obs.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False
        ):
            features = self.trunk(obs)
        return self.heads(features, lstm_state, dones)

    def heads(
        self, features: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        """Compute what `forward` returns from the trunk's features [B, F], in fp32."""
        # The heads are fp32. To turn autocast off here would take longer than the heads themselves.
        assert not torch.is_autocast_enabled(features.device.type), "set `bf16` instead of autocast"
        x, lstm_state = self.core(features.float(), lstm_state, dones)
        parts = x.chunk(1 + self.trunk.separate_critic, dim=-1)
        distribution = self.policy(self.policy_head(parts[0]))
        return distribution, self.value_head(parts[-1]).squeeze(-1), lstm_state

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    @property
    def obs_dtype(self) -> torch.dtype:
        """The dtype of the observations that `forward` expects."""
        return torch.float32 if self.obs_statistics is not None else self._obs_dtype

    def initial_state(self, count: int) -> Tensor:
        """Return the LSTM state [count, R] at the beginning of an episode."""
        return self.value_head.weight.new_zeros(count, self.core.state_size)  # D33


def make_trunk(obs_shape: tuple[int, ...], spec: NetworkSpec) -> NatureCNN | MLP:
    """Make the layers that read observations of a shape; UsageError if none can."""
    if max(obs_shape) > LARGEST_SIDE:
        raise UsageError(f"observations of {obs_shape} are too large; {LARGEST_SIDE} is most")
    if spec.channels is None:
        return MLP(obs_shape, spec.features, spec.separate_critic)
    if len(obs_shape) != 3:
        raise UsageError(
            f"observations of shape {obs_shape} are not images; use --observation ram, which means "
            "any vector of bytes, and --network mlp"
        )
    return NatureCNN(obs_shape, spec.channels, spec.features)  # D21
