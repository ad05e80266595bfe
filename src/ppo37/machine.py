"""Facts about this machine, without PyTorch."""

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

ARM_PARTS = "CPU implementer", "CPU part", "CPU variant", "CPU revision"
"""What /proc/cpuinfo has of an ARM processor, which has no name there."""


def user_folder(variable: str, default: str) -> Path:
    """Return the folder that an XDG variable names, else `default` in the home directory.

    RuntimeError without a home directory.
    """
    folder = Path(os.environ.get(variable, ""))
    return folder if folder.is_absolute() else Path.home() / default  # as its specification asks


def cpu_info() -> dict[str, str]:
    """Read `model name`, `vendor_id`, `flags` and more of the first core; empty if not on Linux."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


@cache
def cpu_name() -> str:
    """Return the name of the processor, or the numbers that stand for it; it is never empty."""
    info = cpu_info()
    name = info.get("model name") or " ".join(info[part] for part in ARM_PARTS if part in info)
    return name or _name_on_macos() or platform.processor() or "unknown"


def _name_on_macos() -> str:
    """Return the name of the processor, such as Apple M2; empty on other systems."""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return ""


def memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return psutil.virtual_memory().total
