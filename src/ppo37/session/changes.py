"""Changed settings of a run that is resumed, and where its schedules continue."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..algorithm.schedules import linear
from ..config import Config, from_dict, implied_by, schedules
from ..errors import UsageError

OF_THE_NETWORK = (
    "observation",
    "network",
    "hidden",
    "frame_stack",
    "action_space",
    "mask_actions",
    "norm_obs",
    "norm_reward",
)
"""Settings that determine the names and shapes of an agent's tensors."""
FIXED = (
    "game",
    "env",
    "env_kwargs",
    "wrappers",
    "imports",
    "channels",
    "preset",
    "protocol",
    "modes",
    "difficulty",
    "seed",
    *OF_THE_NETWORK,
    "zero_mean_init",
)
"""Settings that cannot change during a run: they define the environments and the network."""
DECIDE_THE_BACKEND = ("device", "precision", "kernels")


def annealed(config: Config, agent_steps: int) -> dict[str, float]:
    """Compute by E9 the settings that can be annealed, for the update after `agent_steps`."""
    total = agent_steps + config.updates_left(agent_steps) * config.batch_size
    return {name: linear(*config.schedule(name), agent_steps, total) for name in schedules()}


def changed_config(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return the settings of a run with some changed; UsageError for one that cannot change."""
    wanted = implied_by(dict(changes))
    now = from_dict({**dataclasses.asdict(config), **wanted})
    for name in FIXED:
        before, after = getattr(config, name), getattr(now, name)
        if before != after:
            raise UsageError(
                f"{name} is {before} and cannot change during a run; train a new run with {after} "
                "(--init-from starts it from this agent, if its network fits)"
            )
    if now.device != config.device:
        backend = {name: "auto" for name in ("precision", "kernels") if name not in wanted}
        now = from_dict({**dataclasses.asdict(now), **backend})
    return now


def schedule_notes(before: Config, now: Config, agent_steps: int) -> list[str]:
    """Return a line for each schedule that continues at another value than before."""
    lines = []
    was, values = annealed(before, agent_steps), annealed(now, agent_steps)
    total = agent_steps + now.updates_left(agent_steps) * now.batch_size
    for name, value in values.items():
        start, end = now.schedule(name)
        if value != was[name]:
            goes = f" and goes to {end:g} at {total:,} agent steps" if start != end else ""
            lines.append(f"{name} continues at {value:.3g} (it was {was[name]:.3g}){goes}")
    return lines
