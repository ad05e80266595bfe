"""A search for the settings that reach a score with the least work: successive halving.

In each round every candidate that remains is trained with new seeds, the same for all. A run ends
at the score or at its full number of steps, never earlier; a candidate is dropped after a round if
it is in the slower half. Each round is a suite in a folder of its own, so a search goes on after a
kill as suites do.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..build import Brought
from ..config import Config, to_dict
from ..errors import RunError, UsageError
from ..session.files import real_path
from ..session.metrics import last_record
from ..tools.figures import import_matplotlib
from . import folder
from .plan import Plan
from .search_results import DOCUMENT, PAGE, Attempt, ranking, write_results
from .suite import suite
from .suite_results import DOCUMENT as SUITE

ROUNDS = (5, 8, 12)
"""The seeds of a candidate after each round."""
FEWEST = 2
"""Candidates that are never dropped, besides the base."""


def search(
    plan: Plan,
    rounds: Sequence[int] | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    log: Callable[[str], None] = lambda _: None,
    brought: Callable[[Config], Brought] = lambda _: Brought(),
    more: Sequence[str] = (),
) -> tuple[Path, dict[str, Any]]:
    """Find the variant of a plan that reaches its score with the least CPU time.

    plan: of one game, with a score to reach (`until`), two or more variants, the first of which is
    the base, and the seeds of all rounds.  rounds: the number of seeds of a candidate after each
    round, increasing to all seeds of the plan; by default those of 5, 8 and 12 that the plan has
    seeds for.  out: a directory, by default under `runs/`; the same search continues there.
    jobs, brought, more: see `suite`.

    After each round but the last, the slower half of the candidates is dropped, but never the base.
    Returns the directory and the result, plain values, which are in `search.json`, too.
    UsageError for a plan that cannot be searched, before anything is written; Stopped after a
    signal, with checkpoints of the active runs. A run that fails counts as one that never reaches
    the score.
    """
    ends = _checked_rounds(plan, rounds)
    import_matplotlib()  # fails before hours of training, not after
    wanted = _description(plan, ends)
    first = next(iter(plan.arms.values())).config
    path = folder.default_path("search", first) if out is None else real_path(out)
    with closing(folder.open_folder(path, DOCUMENT, log)):
        known = folder.read_document(path / DOCUMENT)
        if known is not None and known.get("search") != wanted:
            raise UsageError(f"{path} has another search; choose another --out")
        remaining, dropped = list(wanted["candidates"]), dict[str, int]()
        attempts: dict[str, list[Attempt]] = {name: [] for name in remaining}
        result = write_results(path, wanted, attempts, dropped)
        for number, (begin, end) in enumerate(zip((0, *ends), ends, strict=False), start=1):
            seeds = plan.seeds[begin:end]
            log(f"round {number} of {len(ends)}: {len(remaining)} candidates")
            arms = {name: arm for name, arm in plan.arms.items() if arm.variant in remaining}
            own = plan._replace(arms=arms, seeds=seeds)
            for name, attempt in _trained(own, path / f"round-{number}", jobs, log, brought, more):
                attempts[name].append(attempt)
            if number < len(ends):
                slow = _slower_half(attempts, remaining)
                dropped |= dict.fromkeys(slow, number)
                remaining = [name for name in remaining if name not in slow]
            result = write_results(path, wanted, attempts, dropped)
    log(f"the results are in {path / PAGE}")
    return path, result


def _checked_rounds(plan: Plan, rounds: Sequence[int] | None) -> list[int]:
    """Return the number of seeds after each round; UsageError if the plan cannot be searched."""
    configs = [arm.config for arm in plan.arms.values()]
    if plan.until is None:
        raise UsageError("a search needs the score to reach: --until SCORE, or `until` in the plan")
    if len({config.game for config in configs}) > 1:
        raise UsageError("a search has one game; the plan has several")
    if len(configs) < 2:
        raise UsageError("a search needs two variants or more, [variants.NAME], the base first")
    if len({config.total_timesteps for config in configs}) > 1:
        raise UsageError("the variants need the same total_timesteps: the limit of all runs")
    seeds = len(plan.seeds)
    if rounds is None:
        return [*(number for number in ROUNDS if number < seeds), seeds]
    if not rounds or any(a >= b for a, b in zip((0, *rounds), rounds, strict=False)):
        raise UsageError(f"--rounds takes increasing numbers of seeds, not {list(rounds)}")
    if rounds[-1] != seeds:
        raise UsageError(f"the last of --rounds must be the number of seeds, {seeds}")
    return list(rounds)


def _description(plan: Plan, ends: list[int]) -> dict[str, Any]:
    """Return what a search is made of; another search in the same directory is refused by it."""
    candidates = {
        arm.variant: to_dict(dataclasses.replace(arm.config, seed=0)) for arm in plan.arms.values()
    }
    return {
        "until": plan.until,
        "rounds": ends,
        "seeds": plan.seeds,
        "budget": plan.budget,
        "candidates": candidates,
    }


def _trained(
    plan: Plan,
    path: Path,
    jobs: int | None,
    log: Callable[[str], None],
    brought: Callable[[Config], Brought],
    more: Sequence[str],
) -> list[tuple[str, Attempt]]:
    """Train a round; return each run with the name of its candidate.

    RunError if a run has not ended although nothing is wrong with it.
    """
    try:
        document = suite(plan, path, jobs, log, brought, more)[1]
    except RunError as error:
        document = folder.read_document(path / SUITE) or {"runs": []}
        if not document["runs"] or not all(r["finished"] or r["error"] for r in document["runs"]):
            raise
        log(f"{error}; these runs count as runs that never reach the score")
    return [(run["variant"], _attempt(path, run)) for run in document["runs"]]


def _attempt(path: Path, run: dict[str, Any]) -> Attempt:
    record = last_record(path / run["run"]) or {}
    reached = bool(run["finished"] and run["reached"])
    work = {name: record.get(name, 0) for name in ("agent_steps", "cpu_s", "wall_s")}
    error = None if run["finished"] else run["error"]
    return Attempt(run["seed"], reached, **work, error=error)


def _slower_half(attempts: dict[str, list[Attempt]], remaining: list[str]) -> list[str]:
    """Return the candidates to drop: the slower half, without the base, which is the first."""
    order = ranking({name: attempts[name] for name in remaining})
    rivals = [name for name in order if name != remaining[0]]
    return rivals[max(FEWEST, math.ceil(len(rivals) / 2)) :]
