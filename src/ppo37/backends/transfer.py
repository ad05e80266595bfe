"""Move data between the environments, which are on the CPU, and a network on a GPU.

With the network on the CPU every function here does nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..envs import Step


class Stream:
    """A CUDA stream for one rollout thread, beside those of the other threads."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Run the work of the block on this stream, after all earlier and before all later work."""
        if self._stream is None:
            yield
            return
        default = torch.cuda.default_stream(self._stream.device)
        self._stream.wait_stream(default)
        with torch.cuda.stream(self._stream):
            yield
        default.wait_stream(self._stream)

    def waited_for(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work` followed by a wait for the device, so that its time can be measured.

        For work whose results are read next anyway.
        """
        stream = self._stream
        if stream is None:
            return work

        def waiting(*arguments: Any) -> Any:
            result = work(*arguments)
            stream.synchronize()
            return result

        return waiting


def page_locked(like: Tensor) -> NDArray[Any] | None:
    """Allocate pinned memory of the shape and dtype of `like`; None if `like` is on the CPU."""
    if not like.is_cuda:
        return None
    memory: NDArray[Any] = torch.empty(like.shape, dtype=like.dtype, pin_memory=True).numpy()
    return memory


def staged(step: Callable[[Any], Step], memory: NDArray[Any]) -> Callable[[Any], Step]:
    """Return `step` with its observations [N, *obs_shape] copied to `memory`.

    The next step overwrites them. By then the caller has waited for its actions, so the GPU has
    read the observations that they were chosen for.
    """

    def staged_step(actions: Any) -> Step:
        result = step(actions)
        np.copyto(memory, result.obs)
        return result._replace(obs=memory)

    return staged_step
