"""An agent whose trunk is computed by native kernels."""

import torch
from torch import Tensor

from ...algorithm.distributions import Distribution
from ...errors import UsageError
from ...networks.agent import Agent
from ..network import DeviceNetwork, is_nature
from .kernels import Trunk, Weights, features, kernels_for, layers, weights_of


class Native(DeviceNetwork):
    """An agent whose trunk is computed by native kernels, on a CPU.

    The precision is the one that the agent has now. threads: how many share the work of one call;
    inside `frozen_weights`, where several threads call, each call uses one.  UsageError if there
    are no kernels for the agent or the processor.
    """

    def __init__(self, agent: Agent, threads: int) -> None:
        super().__init__(agent)
        self._threads = threads
        if agent.device.type != "cpu" or not is_nature(agent):
            raise UsageError(
                "native kernels are for the convolutions of nature, nature_half and lstm on uint8 "
                "images, on a CPU; use --kernels torch"
            )
        self._trunk = agent.trunk
        self._kernels = kernels_for(agent.trunk, agent.bf16)
        self._parameters = [part for layer in layers(agent.trunk) for part in layer.parameters()]

    def __call__(
        self, arranged: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        bf16 = self._kernels.dtype == torch.bfloat16
        assert self.agent.bf16 == bf16, "the kernels were made for another precision"
        threads = self._threads if self._frozen is None else 1
        weights = self._frozen or self._packed_weights()
        if torch.is_grad_enabled():
            seen = Trunk.apply(self._kernels, weights, arranged, threads, *self._parameters)
        else:
            seen = features(self._kernels, weights, arranged, threads)
        return self.agent.heads(seen, lstm_state, dones)

    def _packed_weights(self) -> Weights:
        return weights_of(self._kernels, self._trunk, self._threads)
