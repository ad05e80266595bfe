"""The number of steps that fit in a time: a run that ends in time, with complete schedules."""

import dataclasses
import math
import re
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from ..backends.ranks import join
from ..config import ANNEALED_BY, Config, from_dict, schedules
from ..envs.games import title
from ..errors import UsageError
from ..presets import changes, preset_key
from .bench import WARM_UP_UPDATES, whole_loop
from .stats import reached, reference

MEASURED_UPDATES = 3
TRIED_UPDATES = WARM_UP_UPDATES + MEASURED_UPDATES + 1
"""All updates that `whole_loop` makes to measure those."""
SAFETY = 0.88
"""Part of the time that is planned for. The rest is a reserve: games grow longer, checkpoints are
written, and other programs run."""
FEWEST_UPDATES = 10
MOST_STEPS = 10**12
"""More steps than fit in any time."""
FAR = 1.5
"""No score is expected of a run that is longer by this factor than every measured run."""
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class Plan(NamedTuple):
    """A configuration that fits in a time, and the measured speed in agent steps a second."""

    config: Config
    sps: float


def plan(config: Config, budget_s: float, started: float, log: Callable[[str], None]) -> Plan:
    """Return `config` with so many `total_timesteps` that its run ends in time.

    Measures the speed in a few updates in a temporary directory, on all ranks; rank 0 plans.
    started: the `time.monotonic()` at which the time begins.  log: receives the plan, in one line.
    UsageError if the time is too short for a run.
    """
    log(f"measuring {TRIED_UPDATES} updates")
    measuring = time.monotonic()
    measured = whole_loop(not_annealed(config), MEASURED_UPDATES)

    def planned() -> tuple[int, float]:
        """Return the number of updates that fit, and the seconds of each."""
        update_s = statistics.mean(measured["loop_update_s"])
        now = time.monotonic()
        start_up_s = max(0.0, now - measuring - TRIED_UPDATES * update_s)
        return updates_within(budget_s, update_s, start_up_s, now - started), update_s

    with closing(join(config.device)) as ranks:
        updates, update_s = ranks.broadcast_from_main(planned)
    fitting = dataclasses.replace(config, total_timesteps=updates * config.batch_size)
    sps = config.batch_size / update_s
    log(
        f"{fitting.agent_steps:,} agent steps fit in {budget_s:,.0f} s, at {sps:,.0f} a second and "
        f"with {1 - SAFETY:.0%} in reserve; {expected_score(fitting)}"
    )
    return Plan(fitting, sps)


def updates_within(
    budget_s: float, update_s: float, start_up_s: float, spent_s: float = 0.0
) -> int:
    """Return how many updates fit in a time, with a reserve; UsageError if they are too few.

    start_up_s: until the first update of a run begins.  spent_s: of the time, before the run.
    """
    updates = int((SAFETY * (budget_s - spent_s) - start_up_s) / update_s)
    if updates < FEWEST_UPDATES:
        least_s = (FEWEST_UPDATES * update_s + start_up_s) / SAFETY + spent_s
        raise UsageError(
            f"a budget of {budget_s:g} s is too short for {FEWEST_UPDATES} updates of "
            f"{update_s:.2g} s and the start; use at least {math.ceil(1.1 * least_s)}s"
        )
    return updates


def not_annealed(config: Config) -> Config:
    """Return settings to measure the speed with.

    With annealing, the few updates would end at rate 0, where more epochs stop early.
    """
    starts = {name: config.schedule(name)[0] for name in schedules()}
    return from_dict({**dataclasses.asdict(config), **starts, **dict.fromkeys(ANNEALED_BY, False)})


def expected_score(config: Config) -> str:
    """Describe the score that measured runs of about as many steps had, and the published one."""
    name, steps = title(config.game), config.agent_steps
    as_measured = config.protocol == "classic" and set(changes(config)) <= {"total_timesteps"}
    known = reached(config.game, preset_key(config.preset, config.device)) if as_measured else []
    scores = reference(config.game, config.protocol)
    published = scores.get("cleanrl_ppo_atari", scores.get("ppo_paper"))
    end = "" if published is None else f"; published for 10,000,000 steps: {published:,.1f}"
    if not known:
        return f"no run of {name} with these settings has been measured{end}"
    nearest = min(known, key=lambda point: (abs(point.agent_steps - steps), point.total_timesteps))
    if steps > FAR * nearest.agent_steps:
        end = f"; longer runs have not been measured{end}"
    runs = f"{nearest.runs} run{'s' if nearest.runs > 1 else ''}"
    return (
        f"score to expect in {name}: {nearest.score:,.1f} (mean of the last 100 training games "
        f"after {nearest.agent_steps:,} of {nearest.total_timesteps:,} steps, {runs}){end}"
    )


def seconds(text: str, option: str = "--budget") -> float:
    """Convert a time such as 90s, 30m, 2h or 1h30m to seconds; UsageError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    found = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < found < float("inf"):
        raise UsageError(f"{option} takes a time such as 90s, 30m or 1h30m, not {text!r}")
    return found
