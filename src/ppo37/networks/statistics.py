"""Running statistics that belong to an agent."""

from typing import Any

import torch
from torch import nn

from ..algorithm.normalization import RunningMeanStd, initial_statistics


class RunningStatistics(nn.Module):
    """A running mean and variance, saved with the agent and not trained by gradients.

    They stay on the CPU, where the environments use them.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name, value in initial_statistics(shape)._asdict().items():
            self.register_buffer(name, torch.from_numpy(value))

    def _apply(self, fn: Any, recurse: bool = True) -> "RunningStatistics":
        """Stay on the CPU when the agent is moved to another device."""
        return self

    @property
    def values(self) -> RunningMeanStd:
        """The statistics in arrays that share the memory of the buffers."""
        return RunningMeanStd(*(self.get_buffer(name).numpy() for name in RunningMeanStd._fields))
