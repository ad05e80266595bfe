"""The agent: observations in, a distribution over actions and a value out.

A trunk reads single observations (`nature.py`, `mlp.py`, ...; `registry.py` finds them by name), an
LSTM may follow it (`lstm.py`), and two heads compute the policy and the value. bf16 is used in the
layers of the trunk only; all else is fp32.

Legend: M sequences of L steps, B = M * L samples, F features, R numbers of LSTM state, A actions.
"""

import math

import torch
from torch import Tensor, nn

from ..algorithm.distributions import Distribution, mask_logits
from ..config import Config
from ..errors import UsageError
from . import registry
from .layers import layers_of, orthogonal
from .lstm import LSTM, FeedForward
from .policies import Policy
from .statistics import RunningStatistics


class Agent(nn.Module):
    """A policy and a value function on one trunk.

    forward(obs [B, *obs_shape], lstm_state [M, R], dones [M, L])
    -> (distribution over actions [B], values [B], lstm_state [M, R]), fp32.
    Observations are of the type `obs_dtype`: uint8 or fp32. With `masked` they are vectors
    [B, prod(obs_shape) + A] instead that end with a mask of the legal actions: 1 if legal, else 0;
    the trunk does not see it. With `bf16` the trunk computes in bfloat16 by autocast; parameters
    stay fp32. With `norm_obs` or `norm_reward` the agent holds the statistics that normalize its
    observations or rewards; with `norm_obs`, `forward` expects normalized fp32 observations.
    """

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        policy: Policy,
        network: str | type[nn.Module],
        seed: int,
        zero_mean: bool = False,
        norm_obs: bool = False,
        norm_reward: bool = False,
        hidden: tuple[int, ...] = Config.hidden,
        obs_dtype: torch.dtype = torch.uint8,
        masked: bool = False,
    ) -> None:
        """Initialize all layers; UsageError if the network cannot read the observations.

        network: a built-in one by its name, or the class of one's own.  zero_mean: by the trunk's
        `zero_mean_init`.  hidden: sizes of the dense layers of a network that has this argument.
        obs_dtype: uint8 or float32, before any normalization.  masked: whether observations end
        with a mask of the legal actions; `obs_shape` is without it.
        """
        super().__init__()
        self.obs_shape, self.masked = obs_shape, masked
        self.obs_dtype = torch.float32 if norm_obs else obs_dtype
        found = registry.find(network)
        self.trunk = registry.make_trunk(found, obs_shape, self.obs_dtype, hidden, seed)  # D21
        self._parts = 1 + registry.has_separate_critic(self.trunk)
        features = self.trunk.features * self._parts
        self.core = LSTM(features, found.cells) if found.cells else FeedForward(features)
        head_inputs = self.core.features // self._parts
        self.policy_head = nn.Linear(head_inputs, policy.num_outputs)
        self.policy = policy
        self.value_head = nn.Linear(head_inputs, 1)
        seen = (math.prod(obs_shape),) if masked else obs_shape  # without the mask
        self.obs_statistics = RunningStatistics(seen) if norm_obs else None
        self.return_statistics = RunningStatistics(()) if norm_reward else None
        self.bf16 = False
        generator = torch.Generator().manual_seed(seed)
        for layer in layers_of(self.trunk):
            orthogonal(layer, math.sqrt(2.0), generator)  # D02
        if zero_mean:
            if not hasattr(self.trunk, "zero_mean_init"):
                raise UsageError(
                    f"zero_mean_init is for the first convolution of nature; network {found.name} "
                    "has no such layer: use --no-zero-mean-init"
                )
            self.trunk.zero_mean_init()
        for layer in layers_of(self.core):
            orthogonal(layer, 1.0, generator)  # D32
        orthogonal(self.policy_head, 0.01, generator)  # D02
        orthogonal(self.value_head, 1.0, generator)  # D02

    def forward(
        self, obs: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        action_mask = None
        if self.masked:
            obs, action_mask = self.split_mask(obs)
        # Autocast takes time, also where it is not enabled. Its cache is global to the process,
        # and several threads act at once.
        if self.bf16:
            with torch.autocast(obs.device.type, torch.bfloat16, cache_enabled=False):
                features = self.trunk(obs)
        else:
            features = self.trunk(obs)
        return self.heads(features, lstm_state, dones, action_mask)

    def heads(
        self,
        features: Tensor,
        lstm_state: Tensor,
        dones: Tensor,
        action_mask: Tensor | None = None,
    ) -> tuple[Distribution, Tensor, Tensor]:
        """Compute what `forward` returns from the trunk's features [B, F], in fp32.

        action_mask: [B, A], True where an action is legal; None if all are.
        """
        # The heads are fp32. To turn autocast off here would take longer than the heads themselves.
        assert not torch.is_autocast_enabled(features.device.type), "set `bf16` instead of autocast"
        x, lstm_state = self.core(features.float(), lstm_state, dones)
        parts = x.chunk(self._parts, dim=-1)
        logits = self.policy_head(parts[0])
        if action_mask is not None:
            logits = mask_logits(logits, action_mask)
        distribution = self.policy(logits)
        return distribution, self.value_head(parts[-1]).squeeze(-1), lstm_state

    def split_mask(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Split observations that end with a mask: [B, *obs_shape], and legal actions [B, A]."""
        obs, action_mask = obs.flatten(1).tensor_split([-self.policy.num_outputs], dim=-1)
        return obs.unflatten(1, self.obs_shape), action_mask != 0

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def initial_state(self, count: int) -> Tensor:
        """Return the LSTM state [count, R] at the beginning of an episode."""
        return self.value_head.weight.new_zeros(count, self.core.state_size)  # D33
