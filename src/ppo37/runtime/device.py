"""The machine in hand: device, threads and the memory allocator."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import UsageError


def resolve_device(wanted: str) -> str:
    """'cpu' or 'cuda'; 'auto' takes a GPU if there is one."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UsageError("no CUDA device is available; use --device cpu")
    if wanted == "auto":
        return "cuda" if available else "cpu"
    return wanted


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(cores_of_process())


def cores_of_process() -> set[int]:
    """The numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def describe_machine() -> dict[str, str | int]:
    """What a reader of a result wants to know of the hardware."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of what determines a run's numbers."""
    from importlib.metadata import version

    names = ("ppo37", "torch", "numpy", "ale-py", "gymnasium")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def prepare_process(device: str, cores: int | None = None) -> None:
    """Threads, memory and arithmetic of this process, for training or acting on a device.

    cores: how many there are to use; None for all that the process may.
    """
    torch.set_num_threads(cores or usable_cores())
    if device == "cpu":
        keep_freed_memory()
    else:
        make_exact()


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed pages instead of returning them to the system.

    Every minibatch frees and allocates the same tens of megabytes; faulting their pages in again
    costs up to a third of the time of an update. Returns whether it could be done.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    settings = ((mmap_threshold, 1 << 30), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)


def make_exact() -> None:
    """Have a GPU give the same bits every time, and compute fp32 in fp32."""
    # Read when the library is first used; without it sums may depend on what runs beside them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def settled() -> Iterator[None]:
    """Spare the garbage collector what is there now: one look at all of it takes 0.1 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
