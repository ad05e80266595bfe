"""Facts about this machine, without PyTorch."""

from pathlib import Path

import psutil


def cpu_info() -> dict[str, str]:
    """Read `model name`, `vendor_id`, `flags` and more of the first core; empty if not on Linux."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return psutil.virtual_memory().total
