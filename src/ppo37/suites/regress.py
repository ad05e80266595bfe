"""Does a change of the code change what is learned? The same suite at two commits, compared."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ..backends.device import usable_cores
from ..config import flags
from ..errors import RunError, Stopped, UsageError
from ..presets import changes
from ..session import directory
from ..session.files import real_path
from ..session.signals import Signals
from . import folder
from .aggregate import are_few
from .commits import full_name, source_of
from .compare import compare_entries, entries_of_suite, write_comparison
from .compare_inputs import Entry
from .compare_scale import read_anchors
from .engine import Command, Grid, Processes, Run, shares_of_cores, train_all
from .golden import golden, text_of
from .plan import Plan
from .room import Needs
from .suite_results import DOCUMENT as SUITE
from .suite_results import Suite, TrainedArm, result_of, write_results

DOCUMENT = "regress.json"
BASE, HEAD = "base", "head"
MARGIN = 0.1
"""A difference of this part of the way from random play to a human is one that matters."""
STOPPING = "stopping: the active runs save checkpoints"


def regress(
    base: str,
    head: str,
    plan: Plan | None = None,
    margin: float = MARGIN,
    out: str | Path | None = None,
    anchors: str | Path | None = None,
    jobs: int | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Tell whether `head` learns better or worse than `base`; return the folder and the result.

    base, head: two commits of this checkout (`.` is the working tree), which are trained by
    `plan`; or the directories of two suites, which are compared as they are.  margin: the largest
    difference of the normalized IQM that does not matter.  out: a directory, by default a new one;
    the same command continues there.  anchors: see `compare`.
    The result has `verdict`, the four words of it and the reason, and the comparison.
    UsageError for wrong input; RunError if runs failed; Stopped after a signal.
    """
    if not 0 < margin < math.inf:
        raise UsageError(f"--margin must be more than 0, not {margin}")
    with _anchors(anchors) as file:
        bounds = read_anchors(file)
    if are_suites(base, head):
        entries = [_entry(base, BASE), _entry(head, HEAD)]
        path = directory.claim(directory.alternatives(real_path("regress")))
        if out is not None:
            path = real_path(out)
    elif plan is None:
        raise UsageError(f"{base} and {head} are no suites; to train commits, a plan is needed")
    else:
        path = _train(base, head, plan, out, jobs, log)
        entries = sorted(entries_of_suite(path, log), key=lambda entry: entry.name)
    compared = compare_entries(entries, bounds)
    write_comparison(compared, path / "compare")
    document = {
        "base": base,
        "head": head,
        "margin": margin,
        **verdict(compared, entries, margin),
        "comparison": compared,
    }
    folder.write_document(path / DOCUMENT, document)
    return path, document


def are_suites(*names: str) -> bool:
    """Return whether all of these are the directories of suites."""
    return all((Path(name) / SUITE).is_file() for name in names)


def check_numbers(base: str, head: str, log: Callable[[str], None]) -> dict[str, Any]:
    """Tell whether two commits compute the same numbers, see `golden`."""
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        versions = {BASE: base, HEAD: head}
        sources = {name: stack.enter_context(source_of(it)) for name, it in versions.items()}
        found = golden(sources, signals, log)
    for each in found:
        log(text_of(each))
    return {
        "base": full_name(base),
        "head": full_name(head),
        "identical": all(each.same for each in found),
        "presets": [each._asdict() for each in found],
    }


def verdict(compared: dict[str, Any], entries: list[Entry], margin: float) -> dict[str, Any]:
    """Return the verdict of a comparison of two entries: four words, and the numbers behind them.

    The interval is that of the difference of the IQM (of the mean for one game), head - base.
    """
    gap = compared["differences"][0]
    name, found = next(iter(gap["differences"].items()))
    value, interval = found["value"], found["interval"]
    games = compared["games"]
    scores = [[entry.scores(game) for game in games] for entry in entries]
    seeds = min(len(each) for its in scores for each in its)
    numbers = {"aggregate": name, "difference": value, "interval": interval, "seeds": seeds}
    if interval is None:
        return {"verdict": "cannot tell", "reason": "an interval needs 2 seeds", **numbers}
    low, high = interval
    needed = _seeds_needed(value, (high - low) / 2, margin, seeds)
    if len(games) > 1 and any(map(are_few, scores)):
        reason = "the intervals of so few runs are too narrow"
        return {"verdict": "cannot tell", "reason": reason, **numbers}
    if -margin <= low and high <= margin:
        word, reason = f"no difference larger than {margin:g}", "the whole interval is within it"
    elif low > 0:
        word, reason = "better", "the whole interval is above 0"
    elif high < 0:
        word, reason = "worse", "the whole interval is below 0"
    else:
        word, reason = "cannot tell", f"about {needed} seeds are needed"
    return {"verdict": word, "reason": reason, **numbers}


def _seeds_needed(value: float, half: float, margin: float, seeds: int) -> int:
    """Return the seeds with which an interval around this difference would tell something.

    half: half of the width of the interval from `seeds` seeds, which falls by the root of their
    number.  It has to leave out 0, or to be within the margin.
    """
    enough = max(abs(value), margin - abs(value))
    return max(seeds + 1, math.ceil(seeds * (half / enough) ** 2))


def _train(
    base: str,
    head: str,
    plan: Plan,
    out: str | Path | None,
    jobs: int | None,
    log: Callable[[str], None],
) -> Path:
    """Train the plan at both commits, side by side; return the directory, which is a suite."""
    commits = {BASE: full_name(base), HEAD: full_name(head)}
    shares = shares_of_cores(jobs or usable_cores())
    arms = {
        f"{variant}__{name}": TrainedArm(variant, arm.config, arm.config, Needs(0, 0))
        for name, arm in plan.arms.items()
        for variant in commits
    }
    path = real_path(out) if out is not None else _default_path(plan)
    grid = Grid(path, {name: arm.config for name, arm in arms.items()}, plan.seeds)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals(STOPPING))
        sources = {
            variant: stack.enter_context(source_of(commit))
            for variant, commit in zip(commits, (base, head), strict=True)
        }
        stack.enter_context(closing(folder.open_folder(path, SUITE, log)))
        known = folder.read_document(path / DOCUMENT)
        if known is not None and known.get("commits") != commits:
            raise UsageError(f"{path} has runs of other commits; choose another --out")
        folder.write_document(path / DOCUMENT, {"commits": commits})
        made = Suite(grid, arms, None, {})
        write_results(made)

        def command(run: Run) -> Command:
            source = sources[run.name.partition("__")[0]]
            if directory.is_run(run.path):
                return Command(["resume", str(run.path)], source)
            # Only what differs from the preset: another version may not know all options.
            settings = {**changes(run.config), "seed": run.config.seed}
            return Command(
                [
                    "train",
                    run.config.env or run.config.game,
                    f"--preset={run.config.preset}",
                    f"--device={run.config.device}",
                    *flags(settings),
                    f"--out={run.path}",
                ],
                source,
            )

        pool = stack.enter_context(closing(Processes(shares, command)))
        log(f"{len(grid.runs)} runs in {path}, {pool.text}")
        try:
            made.failures.update(
                train_all(grid.runs, pool, lambda run: result_of(run).text, signals, log)
            )
        except Stopped:
            log(f"to resume, repeat the command with --out {path}")
            raise
        write_results(made)
    if made.failures:
        name, error = next(iter(made.failures.items()))
        raise RunError(f"{len(made.failures)} of {len(grid.runs)} runs failed: {name}: {error}")
    return path


def _default_path(plan: Plan) -> Path:
    return folder.default_path("regress", next(iter(plan.arms.values())).config)


def _entry(path: str, name: str) -> Entry:
    """Return the one entry of a stored suite, under another name."""
    found = entries_of_suite(path)
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found)
        raise UsageError(f"{path} has several variants ({names}); `ppo37 compare` compares them")
    return found[0]._replace(name=name)


@contextmanager
def _anchors(given: str | Path | None) -> Iterator[str | Path]:
    """Yield the file of the anchors: the user's, or that of the package."""
    if given is not None:
        yield given
        return
    with as_file(files("ppo37") / "data" / "anchors.toml") as path:
        yield path
