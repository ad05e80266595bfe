"""The environment variables by which torchrun describes a job to its processes."""

import os
import platform
from contextlib import suppress

import torch

from ...errors import UsageError

TIMEOUT_S, TIMEOUT_VARIABLE = 60.0, "PPO37_TIMEOUT_S"
"""How long a rank waits for the others before it ends the run, and the variable that sets it."""


def launched() -> bool:
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def number(name: str) -> int:
    """Read a number that torchrun sets; UsageError if it is not one."""
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise UsageError(f"torchrun sets {name} to a whole number, and here it is {text!r}")
    return int(text)


def own_rank() -> int:
    """Return the number of this process among those of its job; 0 without torchrun."""
    return number("RANK") if launched() else 0


def own_gpu() -> int:
    """Return the number of this rank's GPU on its node; UsageError if there are not enough."""
    rank, gpus = number("LOCAL_RANK"), torch.cuda.device_count()
    if rank >= gpus:
        raise UsageError(
            f"there is no GPU for rank {rank} of this node, which has {gpus}; use "
            f"--nproc-per-node={gpus}, or --device cpu"
        )
    return rank


def job() -> str | None:
    """Return an identifier of this job that stays the same when torchrun restarts it."""
    if not launched():
        return None
    name = os.environ["TORCHELASTIC_RUN_ID"]
    # Without a rendezvous of its own every job is called none; its launcher stays the same.
    return f"{platform.node()}:{os.getppid()}" if name == "none" else name


def restarted() -> bool:
    """Return whether torchrun has restarted this job because a rank was lost."""
    return launched() and number("TORCHELASTIC_RESTART_COUNT") > 0


def may_restart() -> bool:
    """Return whether torchrun will restart this job when a rank is lost."""
    return launched() and number("TORCHELASTIC_MAX_RESTARTS") > 0


def timeout_s() -> float:
    """Return how long ranks wait for each other; UsageError if it is set to something else."""
    text = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT_S))
    with suppress(ValueError):
        if 1 <= float(text) <= 86400:
            return float(text)
    raise UsageError(
        f"{TIMEOUT_VARIABLE} must be a number of seconds from 1 to 86400, not {text!r}"
    )
