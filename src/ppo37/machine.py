"""What the system says of this machine; it imports nothing, so that it can be asked at any time."""

import os
from pathlib import Path


def cpu_info() -> dict[str, str]:
    """Read what Linux says of the first CPU core: `model name`, `vendor_id`, `flags` and more.

    Empty on other systems.
    """
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def memory_bytes() -> int:
    """Ask for the size of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
