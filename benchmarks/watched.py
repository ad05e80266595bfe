"""Commands whose memory is measured while they run."""

import os
import subprocess
import tempfile
from typing import NamedTuple

import psutil

from ppo37.errors import RunError
from ppo37.tools.processes import launch

SAMPLE_EVERY_S = 1.0


class Watched(NamedTuple):
    """The stdout of a command, and the largest memory of it and its children."""

    output: str
    peak_memory_mib: float | None


def run(command: list[str]) -> Watched:
    """Run a command to its end; RunError if it fails."""
    with tempfile.TemporaryFile("w+") as output:
        worker, lifeline = launch(command, stdout=output)
        try:
            peak = _peak_mib(worker)
        finally:
            worker.terminate()  # if this process was interrupted meanwhile
            os.close(lifeline)
        if worker.returncode:
            raise RunError(f"{' '.join(command)} failed with exit code {worker.returncode}")
        output.seek(0)
        return Watched(output.read(), peak)


def process_tree_mib(root: int) -> float | None:
    """Return the memory of a process and its descendants; None if it has ended.

    On Linux a page that several processes share counts once, divided among them.
    """
    try:
        process = psutil.Process(root)
        return sum(map(_memory_bytes, [process, *process.children(recursive=True)])) / 2**20
    except psutil.NoSuchProcess:
        return None


def _memory_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it has ended meanwhile
        return 0
    return getattr(memory, "pss", memory.rss)


def _peak_mib(worker: "subprocess.Popen[bytes]") -> float | None:
    """Wait for a process. Returns the largest sample of the memory of its tree."""
    peak: float | None = None
    while worker.poll() is None:
        now = process_tree_mib(worker.pid)
        if now is not None:
            peak = max(now, peak or 0.0)
        try:
            worker.wait(SAMPLE_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    return peak
