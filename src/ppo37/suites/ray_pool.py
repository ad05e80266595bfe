"""A pool on a Ray cluster: each run is a task, which another node resumes if its node is lost.

All nodes need the directory of the runs at the same path, and this package at the same path or
installed. A task starts the same command as on one machine: it begins a run without a run
directory, and resumes any other from its last checkpoint.
"""

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..session.directory import is_locked
from ..tools.processes import POLL_S, search_path, start
from .engine import Command, Run

RETRIES = 100
"""How many times a run may lose its node."""
ANSWER_S = 10.0
"""The longest wait for the first answer of a cluster, in seconds."""


class RayPool:
    """A pool of tasks on a Ray cluster, each with as many cores as its run has threads."""

    def __init__(
        self, address: str, threads: int, gpus: int, command: Callable[[Run], Command]
    ) -> None:
        """Connect to a cluster. address: host:port, or auto for the one on this machine.

        threads: the most that a run has.  gpus: of each run, 0 or 1.  UsageError if no cluster
        answers, or if none of its nodes is large enough for a run.
        """
        # Ray prints on stdout when a node is lost, but stdout is for results only.
        self._stack = ExitStack()
        self._stack.enter_context(redirect_stdout(sys.stderr))
        try:
            self._ray = _connected(address)
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(self._ray.shutdown)
        self._command, self._gpus = command, gpus
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = sum(node.get("CPU", 0) for node in nodes)
        free = [node.get("CPU", 0) // threads for node in nodes]
        if gpus:
            free = [min(runs, node.get("GPU", 0)) for runs, node in zip(free, nodes, strict=True)]
        self.places = int(sum(free))
        if not self.places:
            self._stack.close()
            most = max(node.get("CPU", 0) for node in nodes)
            raise UsageError(
                f"a run needs {threads} cores{' and a GPU' if gpus else ''}, and no node of the "
                f"cluster has them, at most {most:g} cores; use --threads or --device"
            )
        self.text = f"{self.places} at once on the {cores:g} cores of the cluster"
        self.active = list[Run]()
        self._tasks = dict[Any, Run]()
        # Tasks are tried again: a lost node or a killed worker is not an error of the run.
        self._train = self._ray.remote(max_retries=RETRIES, scheduling_strategy="SPREAD")(_train)

    def start(self, run: Run) -> None:
        task = self._train.options(
            num_cpus=run.config.threads or 1, num_gpus=self._gpus, name=run.name
        )
        self._tasks[task.remote(run, self._command, Path.cwd())] = run
        self.active.append(run)

    def ended(self) -> list[tuple[Run, str]]:
        found = []
        done = self._ray.wait(list(self._tasks), timeout=0)[0] if self._tasks else []
        for task in done:
            run = self._tasks.pop(task)
            self.active.remove(run)
            try:
                error = str(self._ray.get(task))
            except self._ray.exceptions.RayError as failure:
                error = f"the task was lost: {' '.join(str(failure).split())[:200]}"
            found.append((run, error))
        return found

    def close(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=False, recursive=True)
        for task in self._tasks:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(task)
        self._tasks.clear()
        self._stack.close()


def _train(run: Run, command: Callable[[Run], Command], folder: Path) -> str:
    """Train a run on this node. Returns its error message, or an empty text."""
    while is_locked(run.path):  # its last process may still save a checkpoint
        time.sleep(POLL_S)
    child = start(*command(run).arguments, folder=folder if folder.is_dir() else None)
    try:
        while child.process.poll() is None:
            time.sleep(POLL_S)
        if child.process.returncode:
            return child.stderr_tail()
        return "" if run.is_finished else "it has not finished"
    finally:
        child.process.terminate()  # it leaves a checkpoint
        child.close()


def _connected(address: str) -> Any:
    """Return the module `ray`, connected to a cluster."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--ray needs Ray: pip install 'ppo37[ray]'") from error
    host, colon, port = address.rpartition(":")
    if address != "auto" and not (colon and port.isdecimal()):
        raise UsageError(f"--ray takes the host:port of a cluster, or auto, not {address!r}")
    no_answer = f"no Ray cluster answers at {address}; start one by `ray start --head`"
    if address != "auto":
        try:
            socket.create_connection((host, int(port)), ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise UsageError(no_answer) from error
    handler = signal.getsignal(signal.SIGTERM)  # Ray sets its own, which ends the process
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": search_path()}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"{no_answer} ({' '.join(str(error).split())[:120]})") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    return ray
