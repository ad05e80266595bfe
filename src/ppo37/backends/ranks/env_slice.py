"""The environments that belong to a rank."""

from typing import NamedTuple

from torch import Tensor


class EnvSlice(NamedTuple):
    """The environments [first, first + size) of `total`: those of one rank."""

    first: int
    size: int
    total: int

    @property
    def envs(self) -> slice:
        return slice(self.first, self.first + self.size)

    def find(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Find this rank's samples among `indices` [M] of the whole batch.

        Returns their positions in `indices` and in the rank's own batch, both [m].
        """
        envs = indices % self.total - self.first
        positions = ((envs >= 0) & (envs < self.size)).nonzero().squeeze(1)
        own = indices[positions] // self.total * self.size + envs[positions]
        return positions, own
