"""The machine in hand: device, threads and the memory allocator."""

import ctypes
import gc
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from .. import __version__
from ..config import Device
from ..errors import UsageError
from ..machine import cpu_info, memory_bytes


def resolve_device(wanted: Device) -> Device:
    """Return 'cpu' or 'cuda'; 'auto' takes a GPU if there is one."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UsageError("no CUDA device is available; use --device cpu")
    if wanted == "auto":
        return "cuda" if available else "cpu"
    return wanted


def usable_cores() -> int:
    """How many CPU cores this process may use at once.

    The smallest of its affinity, the CPU quota of its control groups (`docker --cpus`, SLURM,
    systemd) and OMP_NUM_THREADS. torchrun sets OMP_NUM_THREADS to 1 by itself, so under torchrun
    it does not count.
    """
    limits = [len(cores_of_process()), quota_cores()]
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        limits.append(int(first) if first.isdecimal() else None)
    return max(1, min(limit for limit in limits if limit is not None))


def quota_cores(root: Path = Path("/")) -> int | None:
    """Cores that the CPU quota of this process's control groups is worth, rounded up.

    The smallest of the group and those that it lies in; None without a quota. Reads cgroup v2 and
    v1.  root: where /proc and /sys are looked for.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            top, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            top, read = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        folder = top / group.strip("/")
        # In a container the path may be the host's; then the group is what is mounted at the top.
        for place in (folder, *folder.parents):
            with suppress(OSError, ValueError, ZeroDivisionError):
                found.append(read(place))
            if place == top:
                break
    quotas = [math.ceil(quota) for quota in found if quota is not None]
    return min(quotas, default=None)


def _quota_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    quota, period = (int((group / name).read_text()) for name in names)
    return None if quota < 0 else quota / period


def require_memory(samples: int, obs_shape: tuple[int, ...]) -> None:
    """UsageError if the observations of a rollout of so many samples are larger than the memory."""
    needed, there = samples * math.prod(obs_shape), memory_bytes()
    if needed > there:
        raise UsageError(
            f"the observations of one rollout, num_steps * num_envs = {samples:,}, take "
            f"{needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB of memory; choose "
            "less of both"
        )


def cores_of_process() -> set[int]:
    """The numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def describe_machine() -> dict[str, str | int]:
    """What a reader of a result wants to know of the hardware."""
    return {
        "cpu": cpu_info().get("model name") or platform.processor() or "unknown",
        "cores": usable_cores(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of what determines a run's numbers."""
    from importlib.metadata import version

    names = ("torch", "numpy", "ale-py", "gymnasium")
    ours = {"python": platform.python_version(), "ppo37": __version__}
    return {**ours, **{name: version(name) for name in names}}


def prepare_process(device: str, threads: int) -> None:
    """Threads, memory and arithmetic of this process, for training or acting on a device.

    threads: of PyTorch.
    """
    torch.set_num_threads(threads)
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
def gc_frozen() -> Iterator[None]:
    """Spare the garbage collector what is there now: one look at all of it takes 0.1 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
