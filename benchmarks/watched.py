"""Processes whose memory is watched while they run."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from ppo37.errors import RunError
from ppo37.tools.processes import launch

SAMPLE_EVERY_S = 1.0


class Watched(NamedTuple):
    """What a command wrote to stdout, and the most memory that it and its children had."""

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
    """Resident memory of a process and all that it started; None where Linux does not tell.

    A page that several processes share counts once, divided among them.
    """
    try:
        parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
        tree = {root}
        while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
            tree |= more
        return sum(map(_proportional_kib, tree)) / 2**10
    except OSError:
        return None


def _peak_mib(worker: "subprocess.Popen[bytes]") -> float | None:
    """Wait for a process; the largest of the samples of its tree's memory."""
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


def _parent(process: Path) -> int:
    """The parent of a process in /proc; 0 for one that has ended meanwhile."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
