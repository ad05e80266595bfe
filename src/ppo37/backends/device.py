"""The machine and this process: device, CPU cores, memory, and versions."""

import ctypes
import gc
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from .. import __version__
from ..config import Device
from ..errors import UsageError
from ..machine import cpu_name, memory_bytes

CHECKOUT = Path(__file__).parents[3]
"""The root of the repository, where ppo37 runs from its checkout."""


def resolve_device(wanted: Device) -> Device:
    """Return 'cpu' or 'cuda'; 'auto' means a GPU if there is one. UsageError if there is none."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UsageError("no CUDA device is available; use --device cpu")
    if wanted == "auto":
        return "cuda" if available else "cpu"
    return wanted


def usable_cores() -> int:
    """Return how many CPU cores this process may use at once.

    That is the smallest of its affinity, the CPU quota of its control groups (`docker --cpus`,
    SLURM, systemd) and OMP_NUM_THREADS. Under torchrun, which sets OMP_NUM_THREADS to 1, it is
    ignored.
    """
    limits = [len(cores_of_process()), quota_cores()]
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        limits.append(int(first) if first.isdecimal() else None)
    return max(1, min(limit for limit in limits if limit is not None))


def quota_cores(root: Path = Path("/")) -> int | None:
    """Return the CPU quota of this process in cores, rounded up; None without a quota.

    It is the smallest quota of its control group and of the groups around it, in cgroup v2 or v1.
    root: the directory of /proc and /sys.
    """
    quotas = _of_control_groups("cpu", _quota_v2, _quota_v1, root)
    return min(map(math.ceil, quotas), default=None)


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process and its children may still take.

    That is the smallest of what the machine has free and what its control groups allow.  root: the
    directory of /proc and /sys.
    """
    groups = _of_control_groups("memory", _memory_left_v2, _memory_left_v1, root)
    return max(0, int(min([psutil.virtual_memory().available, *groups])))


def _of_control_groups(
    controller: str,
    read_v2: Callable[[Path], float | None],
    read_v1: Callable[[Path], float | None],
    root: Path,
) -> list[float]:
    """Return what is read of this process's control group, and of the groups around it.

    read_v2, read_v1: read a group's folder in either version of control groups; None: no limit.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            top, read = root / "sys/fs/cgroup", read_v2
        elif controller in controllers.split(","):
            top, read = root / "sys/fs/cgroup" / controller, read_v1
        else:
            continue
        folder = top / group.strip("/")
        # In a container the path may be the host's; then the group is mounted at `top`.
        for path in (path for path in (folder, *folder.parents) if path.is_relative_to(top)):
            with suppress(OSError, ValueError, ZeroDivisionError, IndexError):
                found.append(read(path))
    return [value for value in found if value is not None]


def _memory_left_v2(group: Path) -> int | None:
    limit = (group / "memory.max").read_text().strip()
    if limit == "max":
        return None
    # Files that the system keeps in memory make room when it is needed.
    kept = (group / "memory.stat").read_text().split("inactive_file ", 1)[1].split()[0]
    return int(limit) - int((group / "memory.current").read_text()) + int(kept)


def _memory_left_v1(group: Path) -> int:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (int((group / name).read_text()) for name in names)
    kept = (group / "memory.stat").read_text().split("total_inactive_file ", 1)[1].split()[0]
    return limit - used + int(kept)  # without a limit it is larger than any memory


def _quota_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    quota, period = (int((group / name).read_text()) for name in names)
    return None if quota < 0 else quota / period


def gpu_memory_bytes() -> int:
    """Return the size of the GPU's memory."""
    return int(torch.cuda.get_device_properties(0).total_memory)


def require_memory(samples: int, obs_shape: tuple[int, ...]) -> None:
    """UsageError if the observations of a rollout of `samples` steps are larger than the memory."""
    needed, memory = samples * math.prod(obs_shape), memory_bytes()
    if needed > memory:
        raise UsageError(
            f"the observations of one rollout, num_steps * num_envs = {samples:,}, take "
            f"{needed / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB of memory; "
            "choose less of both"
        )


def cores_of_process() -> set[int]:
    """Return the numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def describe_machine() -> dict[str, str | int]:
    """Describe the hardware, for results and checkpoints."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
    }


PROCESSOR = "cpu", "isa", "gpu"
"""The parts of `describe_machine` that decide the bits of results."""


def processor_of(machine: dict[str, Any], device: str) -> str:
    """Describe what decides the bits of results on a device, from `describe_machine`."""
    names = PROCESSOR if device == "cuda" else PROCESSOR[:2]
    parts = (machine.get(name) for name in names)
    return ", ".join(str(part) for part in parts if part not in (None, "none"))


def versions() -> dict[str, str]:
    """Return the versions of the software that determines the numbers of a run."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "ppo37": __version__}
    for name in ("torch", "numpy", "ale-py", "gymnasium", "mujoco"):
        with suppress(PackageNotFoundError):  # mujoco is optional
            found[name] = version(name)
    return found


def versions_text(versions: dict[str, str]) -> str:
    """Return versions as `torch 2.13.0, numpy 2.4.6`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


@cache
def commit() -> str | None:
    """Return the commit of this code, with `-dirty` if it differs; None outside a checkout."""
    if not (CHECKOUT / ".git").exists():
        return None

    def git(*args: str) -> str:
        command = ["git", "-C", str(CHECKOUT), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        differs = git("status", "--porcelain", "--", "src")
        return git("rev-parse", "HEAD") + ("-dirty" if differs else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def prepare_process(device: str, threads: int) -> None:
    """Set the threads, memory and arithmetic of this process for a device.

    threads: the number of PyTorch's threads.
    """
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    else:
        make_exact()


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory instead of returning it to the system.

    Every minibatch frees and allocates the same tens of megabytes; page faults for them take up to
    a third of the time of an update. Returns whether it worked.
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
    """Make a GPU return the same bits every time, and compute fp32 in fp32."""
    # Without this, sums may depend on other work that runs at the same time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Exclude existing objects from garbage collection; a full pass takes 0.1 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
