"""A search for the settings that reach a score with the least work: successive halving.

In each round every candidate that remains is trained with new seeds, the same for all. A run ends
at the score or at its full number of steps, never earlier; a candidate is dropped after a round if
it is in the slower half. Each round is a suite in a folder of its own, so a search goes on after a
kill as suites do.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..backends.device import processor_of, resolve_device, versions_text
from ..build import Brought
from ..config import Config, to_dict
from ..errors import RunError, UsageError
from ..session.checkpoint_format import fits
from ..session.directory import METRICS
from ..session.files import real_path
from ..session.metrics import read_metrics
from ..tools.callbacks import first_reached
from ..tools.figures import import_matplotlib
from . import folder
from .engine import ended_by_signal
from .plan import Plan
from .search_results import (
    CPU,
    DOCUMENT,
    FILES,
    PAGE,
    WORK,
    Attempt,
    ranking,
    write_results,
)
from .suite import suite
from .suite_results import DOCUMENT as SUITE

ROUNDS = (5, 8, 12)
"""The seeds of a candidate after each round."""
FEWEST = 2
"""Candidates that are never dropped, besides the base."""
DECISION_FORM: dict[str, Any] = {"decided": int, "dropped": dict}


def search(
    plan: Plan,
    rounds: Sequence[int] | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    log: Callable[[str], None] = lambda _: None,
    brought: Callable[[Config], Brought] = lambda _: Brought(),
    rank: str = CPU,
) -> tuple[Path, dict[str, Any]]:
    """Find the variant of a plan that reaches its score with the least work.

    plan: of one game, with a score to reach (`until`), two or more variants, the first of which is
    the base, and the seeds of all rounds.  rounds: the number of seeds of a candidate after each
    round, increasing to all seeds of the plan; by default 5, 8 and 12, as far as there are more
    seeds, and all.  out: a directory, by default under `runs/`; the same search continues there.
    jobs, brought: see `suite`.  rank: the work that candidates are ranked by, `cpu_s` or
    `agent_steps`.

    After each round but the last, the slower half of the candidates is dropped, but never the base.
    Returns the directory and the result, plain values, which are in `search.json`, too.
    UsageError for a plan that cannot be searched, before anything is written; RunError if runs were
    ended by a signal of somebody else; Stopped after a signal, with checkpoints of the active runs.
    A run that fails by itself counts as one that never reaches the score.
    """
    wanted = _description(plan, checked_rounds(plan, rounds), rank)
    ends = wanted["rounds"]
    import_matplotlib()  # fails before hours of training, not after
    first = next(iter(plan.arms.values())).config
    path = folder.default_path("search", first) if out is None else real_path(out)
    with closing(folder.open_folder(path, DOCUMENT, log)):
        decided, dropped = _decisions(path, wanted)
        attempts: dict[str, list[Attempt]] = {name: [] for name in wanted["candidates"]}
        if decided is None:  # a folder without its document could not be continued
            write_results(path, wanted, attempts, 0, dropped)
        for number, begin in enumerate((0, *ends[:-1]), start=1):
            remaining = [n for n in attempts if dropped.get(n, len(ends)) >= number]
            seeds = plan.seeds[begin : ends[number - 1]]
            own = _plan_of_round(plan, path, number, remaining, seeds)
            log(f"round {number} of {len(ends)}: {len(remaining)} candidates")
            with _removed_if_refused(path, decided is None):
                found = _trained(own, path, number, jobs, log, brought)
            for name, attempt in found:
                attempts[name].append(attempt)
            if (decided or 0) < number < len(ends):
                slow = _slower_half({name: attempts[name] for name in remaining}, rank)
                dropped |= dict.fromkeys(slow, number)
            result = write_results(path, wanted, attempts, max(decided or 0, number), dropped)
    log(f"the results are in {path / PAGE}")
    return path, result


def checked_rounds(plan: Plan, rounds: Sequence[int] | None) -> list[int]:
    """Return the number of seeds after each round; UsageError if the plan cannot be searched."""
    configs = [arm.config for arm in plan.arms.values()]
    if plan.until is None:
        raise UsageError("a search needs the score to reach: --until SCORE, or `until` in the plan")
    if plan.budget is not None:
        raise UsageError("a search needs total_timesteps, the same for all runs, and no budget")
    if len({config.game for config in configs}) > 1:
        raise UsageError("a search has one game; the plan has several")
    if len(configs) < 2:
        raise UsageError("a search needs two variants or more, [variants.NAME], the base first")
    for name in ("total_timesteps", "env_workers", "device", "threads"):
        if len({getattr(config, name) for config in configs}) > 1:
            raise UsageError(f"the variants need the same {name}")
    seeds = len(plan.seeds)
    if rounds is None:
        return [*(number for number in ROUNDS if number < seeds), seeds]
    if not rounds or any(a >= b for a, b in zip((0, *rounds), rounds, strict=False)):
        raise UsageError(f"--rounds takes increasing numbers of seeds, not {list(rounds)}")
    if rounds[-1] != seeds:
        raise UsageError(f"the last of --rounds must be the number of seeds, {seeds}")
    return list(rounds)


def _description(plan: Plan, ends: list[int], rank: str) -> dict[str, Any]:
    """Return what a search is made of; another search in the same directory is refused by it."""
    if rank not in WORK:
        raise UsageError(f"rank has to be one of {', '.join(WORK)}, not {rank!r}")
    candidates = {
        arm.variant: to_dict(dataclasses.replace(arm.config, seed=0)) for arm in plan.arms.values()
    }
    return {
        "until": plan.until,
        "rounds": ends,
        "seeds": plan.seeds,
        "rank": rank,
        "base": next(iter(candidates)),
        "candidates": candidates,
    }


def _decisions(path: Path, wanted: dict[str, Any]) -> tuple[int | None, dict[str, int]]:
    """Return how many rounds are decided, and the round after which each candidate was dropped.

    The number is None if the directory has no search. A decision stays, also if a run that had
    failed succeeds later. UsageError for another search.
    """
    known = folder.read_document(path / DOCUMENT)
    if known is None:
        return None, {}
    if known.get("search") != wanted:
        raise UsageError(f"{path} has another search; choose another --out")
    ends, names = wanted["rounds"], wanted["candidates"].keys() - {wanted["base"]}
    if not fits(known, DECISION_FORM) or not 0 <= known["decided"] <= len(ends):
        raise UsageError(f"{path / DOCUMENT} is damaged; choose another --out")
    decided, dropped = known["decided"], known["dropped"]
    after = range(1, min(decided, len(ends) - 1) + 1)
    if dropped.keys() - names or not all(fits(n, int) and n in after for n in dropped.values()):
        raise UsageError(f"{path / DOCUMENT} is damaged; choose another --out")
    return decided, dropped


def _round(path: Path, number: int) -> Path:
    return path / f"round-{number}"


@contextmanager
def _removed_if_refused(path: Path, is_new: bool) -> Iterator[None]:
    """Remove the files of a new search if the suite of its first round is refused."""
    try:
        yield
    except UsageError:
        if is_new and not _round(path, 1).exists():
            for name in FILES:
                (path / name).unlink(missing_ok=True)
        raise


def _plan_of_round(
    plan: Plan, path: Path, number: int, remaining: list[str], seeds: list[int]
) -> Plan:
    """Return the plan of a round; choices for `auto` are those of the first one."""
    arms = {name: arm for name, arm in plan.arms.items() if arm.variant in remaining}
    file = _round(path, 1) / SUITE
    document = folder.read_document(file) if number > 1 else None
    try:
        saved = {} if document is None else {arm["name"]: arm["config"] for arm in document["arms"]}
        for name in arms.keys() & saved.keys():
            what = f"{file} has other settings"
            config = folder.with_known_choices(arms[name].config, saved[name], what)
            arms[name] = arms[name]._replace(config=config)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{file} is damaged; choose another --out") from error
    return plan._replace(arms=arms, seeds=seeds)


def _trained(
    plan: Plan,
    path: Path,
    number: int,
    jobs: int | None,
    log: Callable[[str], None],
    brought: Callable[[Config], Brought],
) -> list[tuple[str, Attempt]]:
    """Train a round; return each run with the name of its candidate."""
    own = _round(path, number)
    try:
        document = suite(plan, own, jobs, log, brought, root=path)[1]
    except RunError as error:
        document = folder.read_document(own / SUITE) or {"runs": []}
        runs = document["runs"]
        if not runs or any(not r["finished"] and ended_by_signal(r["error"]) for r in runs):
            raise
        log(f"{error}; such runs count as runs that never reach the score")
    device = resolve_device(next(iter(plan.arms.values())).config.device)
    runs = document["runs"]
    return [(run["variant"], _attempt(own, run, plan.until, device)) for run in runs]


def _attempt(path: Path, run: dict[str, Any], until: float | None, device: str) -> Attempt:
    """Return the work of a run until it reached the score, or until its end."""
    if not run["finished"]:
        return Attempt(run["seed"], False, 0, 0.0, 0.0, run["error"])
    processor = processor_of(run["machine"], device)
    origin = f"{processor}; commit {run['commit'] or 'unknown'}; {versions_text(run['versions'])}"
    assert until is not None
    records = read_metrics(path / run["run"])
    if not records:
        raise UsageError(
            f"{path / run['run'] / METRICS} has lost its updates; choose another --out"
        )
    reached = first_reached(records, until)
    record = reached or records[-1]
    return Attempt(
        run["seed"],
        reached is not None,
        record["agent_steps"],
        record.get("cpu_s") or record["wall_s"],  # unknown in a run that an older version began
        record["wall_s"],
        origin=origin,
    )


def _slower_half(attempts: dict[str, list[Attempt]], rank: str) -> list[str]:
    """Return the candidates to drop: the slower half, without the base, which is the first."""
    base = next(iter(attempts))
    rivals = [name for name in ranking(attempts, rank) if name != base]
    return rivals[max(FEWEST, math.ceil(len(rivals) / 2)) :]
