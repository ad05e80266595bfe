"""A comparison of what two commits learn: the same suite is trained with both."""

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..build import Brought
from ..config import Config, brought_flags, flags, from_dict
from ..errors import UsageError
from ..presets import NOT_IN_PRESETS, changes
from ..session import directory
from ..session.files import OTHER_OUT
from ..session.signals import Signals
from ..tools.stats import t_interval_of_mean
from . import folder
from .aggregate import MOST_SEEDS, seeds_needed
from .commits import source_of
from .compare import compare_entries, entries_of_suite, results_folder, write_comparison
from .compare_inputs import Entry, key_of
from .compare_scale import Anchors, anchors_of, own_anchors, read_anchors
from .engine import Command, Grid, Run
from .golden import golden, text_of
from .plan import Arm, Plan
from .suite import suite
from .suite_results import DOCUMENT as SUITE

DOCUMENT = "regress.json"
BASE, HEAD = "base", "head"
NEW = "regress"
"""The default folder of a comparison of two suites."""
MARGIN = 0.1
"""The smallest difference that matters, in normalized scores (0: random play, 1: a human)."""
FEWEST_SEEDS = 5
CANNOT_TELL = "cannot tell"


def regress(
    base: str,
    head: str,
    plan: Plan | None = None,
    margin: float = MARGIN,
    out: str | Path | None = None,
    anchors: str | Path | None = None,
    jobs: int | None = None,
    log: Callable[[str], None] = lambda _: None,
    brought: Callable[[Config], Brought] = lambda _: Brought(),
) -> tuple[Path, dict[str, Any]]:
    """Tell whether `head` learns better or worse than `base`; return the folder and the result.

    base, head: two commits of this checkout (`.` is the working tree), which train `plan`; or the
    directories of two suites, which are compared as they are.  margin: the largest difference of
    normalized scores that does not matter.  out: a directory, by default a new one; the same
    command continues there.  anchors: a file as for `compare`, which is added to the anchors of the
    package.  jobs, brought: see `suite`.
    The result has the verdict in a few words, its reason, and the comparison.
    UsageError for wrong input; RunError if runs failed; Stopped after a signal.
    """
    if not 0 < margin < math.inf:
        raise UsageError(f"--margin must be more than 0, not {margin}")
    bounds = read_anchors(anchors) if anchors is not None else {}
    bounds = {**own_anchors(), **bounds}
    path = None
    if are_suites(base, head):
        entries = [_entry(base, BASE), _entry(head, HEAD)]
        if out is not None and are_suites(str(out)):
            raise UsageError(f"{out} is a suite{OTHER_OUT}")
    elif are_suites(base) or are_suites(head):
        other = head if are_suites(base) else base
        raise UsageError(f"{other} is not the directory of a suite, which the other one is")
    elif plan is None:
        raise UsageError(f"{base} and {head} are not suites; to train commits, a plan is needed")
    elif any(arm.variant for arm in plan.arms.values()):
        raise UsageError("a plan of two commits has no variants: the commits are what is compared")
    elif plan.until is not None:
        raise UsageError("a plan of two commits has no `until`: scores are compared at equal steps")
    else:
        bounds = _bounds_of((arm.config for arm in plan.arms.values()), bounds)
        path, entries = _train(base, head, plan, out, jobs, brought, log)
    bounds = _bounds_of((run.config for entry in entries for run in entry.runs), bounds)
    compared = compare_entries(entries, bounds)
    found = verdict(entries[0], entries[1], bounds, margin)
    path = path or results_folder(out, NEW)
    write_comparison(compared, path / "compare")
    document = {
        "base": base,
        "head": head,
        "margin": margin,
        **found,
        "comparison": compared,
    }
    folder.write_document(path / DOCUMENT, document)
    return path, document


def are_suites(*names: str) -> bool:
    """Return whether all of these are the directories of suites."""
    return all((Path(name) / SUITE).is_file() for name in names)


def check_numbers(
    base: str, head: str, log: Callable[[str], None], jobs: int | None = None
) -> dict[str, Any]:
    """Check whether two commits compute the same numbers; see `golden`."""
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        versions = {BASE: base, HEAD: head}
        sources = {name: stack.enter_context(source_of(it)) for name, it in versions.items()}
        found = golden({name: it.folder for name, it in sources.items()}, signals, log, jobs)
    for each in found:
        log(text_of(each))
    return {
        **{name: it.name for name, it in sources.items()},
        "identical": all(each.same for each in found),
        "presets": [each._asdict() for each in found],
    }


def verdict(base: Entry, head: Entry, bounds: Anchors, margin: float) -> dict[str, Any]:
    """Return the verdict in a few words, and the numbers behind it.

    The difference of a seed is the mean over games of the normalized score of head minus that of
    base, for each seed that both have in all games. Its mean over seeds has Student's t-interval.
    bounds: the anchors of all games.
    """
    differences = _by_seed(base, head, bounds)
    seeds, value = len(differences), float(np.mean(differences))
    if seeds < FEWEST_SEEDS:
        word, reason, interval = CANNOT_TELL, f"at least {FEWEST_SEEDS} seeds are needed", None
    else:
        interval = t_interval_of_mean(differences)
        word, reason = _words(differences, interval, margin)
    numbers = {"difference": value, "interval": interval and list(interval), "seeds": seeds}
    return {"verdict": word, "reason": reason, **numbers}


def _by_seed(base: Entry, head: Entry, bounds: Anchors) -> list[float]:
    """Return the difference, see `verdict`, of each seed that both have in all games."""
    games = [game for game in base.games if game in head.games]
    found = []
    for game in games:
        low, high = bounds[game]
        pair = [dict(zip(it.seeds(game), it.scores(game), strict=True)) for it in (base, head)]
        shared = pair[0].keys() & pair[1].keys()
        found.append({seed: (pair[1][seed] - pair[0][seed]) / (high - low) for seed in shared})
    seeds = set.intersection(*(set(each) for each in found))
    if not seeds:
        raise UsageError(f"{base.name} and {head.name} have no seed in common")
    return [float(np.mean([each[seed] for each in found])) for seed in sorted(seeds)]


def _words(
    differences: list[float], interval: tuple[float, float], margin: float
) -> tuple[str, str]:
    """Return the verdict that the interval allows, and its reason."""
    low, high = interval
    if -margin <= low and high <= margin:
        return f"no difference larger than {margin:g}", "the whole interval is within it"
    if low > 0:
        return "better", "the whole interval is above 0"
    if high < 0:
        return "worse", "the whole interval is below 0"
    value, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    different = seeds_needed(value / spread) if value else None
    same = seeds_within(margin - abs(value), spread)
    known = [each for each in (different, same) if each is not None]
    needed = f"about {min(known):,}" if known else f"more than {MOST_SEEDS:,}"
    return CANNOT_TELL, f"{needed} seeds are needed"


def seeds_within(half: float, spread: float) -> int | None:
    """Return the seeds with which a t-interval has at most this half width; None if too many.

    spread: the standard deviation of a seed's value.
    """
    from scipy import stats

    seeds = np.arange(2, MOST_SEEDS + 1)
    widths = stats.t.ppf(0.975, seeds - 1) * spread / np.sqrt(seeds)
    enough = np.flatnonzero(widths <= half)
    return int(seeds[enough[0]]) if len(enough) else None


def _bounds_of(configs: Iterable[Config], anchors: Anchors) -> Anchors:
    """Return the anchors of the games of all runs; UsageError if a game has none."""
    found = {}
    for config in configs:
        game = key_of(config)
        bounds = anchors_of(game, [config], anchors)
        if bounds is None:
            raise UsageError(f"{game} has no human score; name two scores by --anchors FILE.toml")
        found[game] = bounds
    return found


def _train(
    base: str,
    head: str,
    plan: Plan,
    out: str | Path | None,
    jobs: int | None,
    brought: Callable[[Config], Brought],
    log: Callable[[str], None],
) -> tuple[Path, list[Entry]]:
    """Train the plan at both commits, as two variants of a suite.

    Returns its directory, and the entries `base` and `head`.
    """
    versions = {BASE: base, HEAD: head}
    arms = {
        f"{version}__{name}": Arm(version, arm.config)
        for name, arm in plan.arms.items()
        for version in versions
    }
    with ExitStack() as stack:
        sources = {name: stack.enter_context(source_of(it)) for name, it in versions.items()}

        def command(run: Run) -> Command:
            source = sources[run.name.partition("__")[0]].folder
            if directory.is_run(run.path):
                return Command(["resume", str(run.path), *brought_flags(run.config)], source)
            return Command(_arguments(run), source)

        origin = {name: found.name for name, found in sources.items()}
        both = plan._replace(arms=arms)
        path, trained = suite(both, out, jobs, log, brought, command=command, origin=origin)
    configs = {arm["name"]: from_dict(arm["config"]) for arm in trained["arms"]}
    # The settings in the run directories are those of other versions.
    runs = {run.name: run.config for run in Grid(path, configs, trained["seeds"]).runs}
    entries = {entry.name: entry for entry in entries_of_suite(path, log, runs)}
    return path, [entries[BASE], entries[HEAD]]


def _arguments(run: Run) -> list[str]:
    """Return the arguments that begin a run.

    They have only the settings that differ from the preset: another version may not have all.
    """
    config = run.config
    always = ("seed", "total_timesteps", "device", "threads", "precision", "kernels")
    names = {*always, *(n for n in NOT_IN_PRESETS if getattr(config, n) != getattr(Config, n))}
    settings = {**changes(config), **{name: getattr(config, name) for name in sorted(names)}}
    game = [config.game] if config.env is None else []
    return ["train", *game, f"--preset={config.preset}", *flags(settings), f"--out={run.path}"]


def _entry(path: str, name: str) -> Entry:
    """Return the one entry of a stored suite, under another name."""
    found = entries_of_suite(path)
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found)
        raise UsageError(f"{path} has several variants ({names}); `ppo37 compare` compares them")
    return found[0]._replace(name=name)
