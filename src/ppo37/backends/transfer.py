"""What lies between the environments, which are on the CPU, and a network on a GPU.

On a CPU nothing does, and all of this is nothing.
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
    """The queue of a GPU that one thread puts its work in, beside that of other threads."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, work goes here; it is done after what the device was asked for before, and
        before what it is asked for afterwards."""
        if self._stream is None:
            yield
            return
        all_others = torch.cuda.default_stream(self._stream.device)
        self._stream.wait_stream(all_others)
        with torch.cuda.stream(self._stream):
            yield
        all_others.wait_stream(self._stream)

    def waited_for(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, which returns when the device has done it, so that its time can be taken.

        For work whose results are looked at next anyway.
        """
        stream = self._stream
        if stream is None:
            return work

        def done(*arguments: Any) -> Any:
            result = work(*arguments)
            stream.synchronize()
            return result

        return done


def page_locked(like: Tensor) -> NDArray[Any] | None:
    """Memory for as much as `like` that a GPU copies from by itself, without a detour.

    None where `like` is on the CPU, which needs no copy.
    """
    if not like.is_cuda:
        return None
    place: NDArray[Any] = torch.empty(like.shape, dtype=like.dtype, pin_memory=True).numpy()
    return place


def staged(step: Callable[[Any], Step], place: NDArray[Any]) -> Callable[[Any], Step]:
    """`step`, with its observations [N, *obs_shape] always in one place.

    The next step fills it anew: who steps has waited for actions by then, which were chosen after
    the observations before had been read.
    """

    def staged_step(actions: Any) -> Step:
        result = step(actions)
        np.copyto(place, result.obs)
        return result._replace(obs=place)

    return staged_step
