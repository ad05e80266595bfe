"""How long a run will take, measured in a moment before it starts."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import torch

from ..algorithm.rollout import Rollout
from ..config import Config
from ..envs import VecEnv
from .executables import Executables, unchanged
from .lanes import Lanes

MOST_STEPS, LEARN_CALLS = 16, 2


def estimate_s(
    config: Config, run: Executables, buffers: Rollout, parts: Sequence[VecEnv],
    optimizer: torch.optim.Optimizer,
) -> float:  # fmt: skip
    """Seconds that the whole run will take, within a third or so on an idle machine.

    `parts`: its environments, or those of one of several ranks that share the work; they are
    stepped, and must be reset before they are used. Weights stay as they are.
    """
    steps = min(MOST_STEPS, config.num_steps)
    first = {name: part[:steps] for name, part in buffers._asdict().items()}
    rest = {"values": buffers.values[: steps + 1], "memory": buffers.memory}
    few = Rollout(**{**first, **rest})
    actions = buffers.actions[0]
    uniforms = torch.full((steps + 1, *actions.shape), 0.5, device=actions.device)
    with closing(Lanes(parts, run.acts, few)) as lanes, run.held():
        step_s = _seconds(lambda: lanes.collect(uniforms), 1) / steps

    indices = torch.arange(config.minibatch_sequences, device=actions.device)
    with unchanged(optimizer):
        batch = run.advantages(buffers)
        learn_s = _seconds(lambda: run.train_step(batch, indices).loss.cpu(), LEARN_CALLS)
    rollout_s = config.num_steps * step_s
    update_s = config.update_epochs * config.num_minibatches * learn_s
    return config.num_updates * (rollout_s + update_s)


def _seconds(work: Callable[[], Any], calls: int) -> float:
    """Mean time of one call, after one to warm up."""
    work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
