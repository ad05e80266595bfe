"""An estimate of the memory and the disk space that runs need, made before the first starts."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backends.device import free_memory_bytes
from ..config import Config
from ..errors import UsageError
from ..networks.agent import Agent
from ..session.checkpoint import KEPT
from ..session.files import space_missing
from ..session.state import checkpoints_bytes
from .engine import Run

PROCESS_BYTES = 300_000_000
"""Memory of a run without the arrays of `needs_of`: Python, PyTorch, and a few emulators."""
WORKER_BYTES = 100_000_000
"""Memory of a process of `env_workers` without its environments."""
LOG_BYTES = 3_000
"""Size of the logs of a usual update with its games, in `metrics.jsonl` and for TensorBoard."""


class Needs(NamedTuple):
    """The memory of a run, and the space that its checkpoints take, in bytes."""

    memory: int
    checkpoints: int

    def with_kept(self, keep: int) -> "Needs":
        """Return the same for a run that keeps so many checkpoints, and writes one more."""
        return self._replace(checkpoints=self.checkpoints * (keep + 1) // (KEPT + 1))


def needs_of(config: Config, agent: Agent) -> Needs:
    """Estimate what a run needs; measured runs needed 0.8 to 1.1 times as much memory.

    Memory: three copies of the rollout's observations; the outputs of all layers for a minibatch,
    with their gradients; the weights, with their gradients, Adam's moments and copies.
    """
    weights = sum(p.numel() * p.element_size() for p in agent.parameters())
    numbers, outputs = _of_one_sample(agent)
    rollout = 3 * config.batch_size * numbers * agent.obs_dtype.itemsize
    gradient = config.minibatch_size * (4 * numbers + 2 * outputs)
    processes = PROCESS_BYTES + config.env_workers * WORKER_BYTES
    return Needs(processes + rollout + gradient + 5 * weights, checkpoints_bytes(agent))


def require_room(runs: Collection[Run], needs: dict[str, Needs], jobs: int, path: Path) -> None:
    """Raise UsageError if memory or disk is too small for the runs that have not finished.

    needs: those of each run, by its name.  jobs: runs at once on this machine, 0 if it trains none.
    path: where their directories will be.
    """
    left = [run for run in runs if not run.is_finished]
    memory = sum(sorted((needs[run.name].memory for run in left), reverse=True)[:jobs])
    available = free_memory_bytes()
    if memory > available:
        raise UsageError(
            f"{jobs} runs at once need about {memory / 1e9:.1f} GB of memory, and "
            f"{available / 1e9:.1f} GB are free; use fewer --jobs or smaller runs"
        )
    logs = sum(run.config.num_updates * LOG_BYTES for run in left)
    missing = space_missing(path, logs + sum(needs[run.name].checkpoints for run in left))
    if missing:
        raise UsageError(f"{missing} for {len(left)} runs; free some or choose another --out")


def _of_one_sample(agent: Agent) -> tuple[int, int]:
    """Return the size of an observation in numbers, and of all layers' outputs in bytes."""
    shape = agent.obs_shape
    size = 0

    def count(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal size
        if isinstance(output, Tensor):
            size += output.numel() * 4

    layers = [module for module in agent.trunk.modules() if not list(module.children())]
    handles = [layer.register_forward_hook(count) for layer in layers]
    obs = torch.zeros(1, *shape, dtype=agent.obs_dtype, device=agent.device)
    try:
        with torch.no_grad():
            agent.trunk(obs)
    finally:
        for handle in handles:
            handle.remove()
    return obs.numel(), size
