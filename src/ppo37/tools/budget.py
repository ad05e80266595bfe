"""As many steps as fit in a time: a run that ends in it, with its schedules at their ends."""

import dataclasses
import math
import re
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from ..backends.ranks import join
from ..config import Config, changes, preset_key
from ..envs.games import title
from ..errors import UsageError
from .bench import WARM_UP_UPDATES, whole_loop
from .stats import reached, reference

MEASURED_UPDATES = 3
TRIED_UPDATES = WARM_UP_UPDATES + MEASURED_UPDATES + 1
"""All that `whole_loop` makes to time those."""
SAFETY = 0.88
"""Part of the time that is planned for: speed changes by some percent while games grow longer,
checkpoints are written and the machine does other things."""
FEWEST_UPDATES = 10
MOST_STEPS = 10**12
"""More than fit in any time."""
FAR = 1.5
"""A run that is longer by this factor than any that was measured may get anywhere."""
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class Plan(NamedTuple):
    """A configuration that fits in a time, the speed that was measured, and words for both."""

    config: Config
    sps: float
    words: list[str]


def plan(
    config: Config, budget_s: float, started: float, say: Callable[[str], None] | None = None
) -> Plan:
    """`config`, with so many `total_timesteps` that its run ends in time.

    Trains for a few updates in a temporary directory to see how fast that is; all ranks do, and
    rank 0 plans for them.  started: the moment by `time.monotonic` since which the time counts.
    UsageError if the time is too short for a run.
    """
    if say is not None:
        say(f"measuring {TRIED_UPDATES} updates")
    measuring = time.monotonic()
    # Rates at their ends would let the epochs stop at another place.
    constant = dataclasses.replace(config, anneal_lr=False, anneal_clip=False)
    measured = whole_loop(constant, MEASURED_UPDATES)

    def planned() -> tuple[int, float]:
        """Updates that fit, and the seconds of each."""
        update_s = statistics.mean(measured["loop_update_s"])
        now = time.monotonic()
        start_up_s = max(0.0, now - measuring - TRIED_UPDATES * update_s)
        left_s = SAFETY * (budget_s - (now - started)) - start_up_s
        updates = int(left_s / update_s)
        if updates < FEWEST_UPDATES:
            least_s = (FEWEST_UPDATES * update_s + start_up_s) / SAFETY + now - started
            raise UsageError(
                f"a budget of {budget_s:g} s is too short: {FEWEST_UPDATES} updates of "
                f"{update_s:.2g} s each and what surrounds them need {math.ceil(1.1 * least_s)} s"
            )
        return updates, update_s

    with closing(join(config.device)) as ranks:
        updates, update_s = ranks.broadcast_from_main(planned)
    fitting = dataclasses.replace(config, total_timesteps=updates * config.batch_size)
    sps = config.batch_size / update_s
    words = [
        f"{sps:,.0f} agent steps a second: {fitting.agent_steps:,} fit in {budget_s:,.0f} s "
        f"with a reserve of {1 - SAFETY:.0%}",
        typical(fitting),
    ]
    return Plan(fitting, sps, words)


def typical(config: Config) -> str:
    """What score a run of so many steps is likely to reach, as far as runs have shown it."""
    name, steps = title(config.game), config.agent_steps
    as_known = config.protocol == "classic" and set(changes(config)) <= {"total_timesteps"}
    known = reached(config.game, preset_key(config.preset, config.device)) if as_known else []
    scores = reference(config.game, config.protocol)
    published = scores.get("cleanrl_ppo_atari", scores.get("ppo_paper"))
    beyond = "" if published is None else f"; published for 10,000,000: {published:,.1f}"
    if not known:
        return f"no run of {name} with these settings has been measured{beyond}"
    nearest = min(known, key=lambda point: (abs(point.agent_steps - steps), point.total_timesteps))
    if steps > FAR * nearest.agent_steps:
        beyond = f"; longer runs have not been measured{beyond}"
    runs = f"{nearest.runs} run{'s' if nearest.runs > 1 else ''}"
    return (
        f"typical in {name} after {nearest.agent_steps:,} agent steps of a run of "
        f"{nearest.total_timesteps:,}: a score of {nearest.score:,.1f} (last 100 training games, "
        f"{runs}){beyond}"
    )


def seconds(text: str) -> float:
    """A time as 90s, 30m, 2h or 1h30m, in seconds; UsageError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    found = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < found < float("inf"):
        raise UsageError(f"a budget is a time such as 90s, 30m or 1h30m, not {text!r}")
    return found
