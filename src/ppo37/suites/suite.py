"""A suite: every variant in every game with every seed, trained side by side, and its results.

Each run is an ordinary run directory, made by `ppo37 train` in its own process. `suite.json` has
what the runs have in common: the settings without `auto`, and the steps that fit in a budget.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from ..backends.device import resolve_device, usable_cores
from ..build import Brought
from ..config import Config
from ..errors import UsageError
from ..session.checkpoint import KEPT
from ..session.files import real_path
from ..session.metrics import read_metrics
from ..session.signals import Signals
from ..tools.bench import WARM_UP_UPDATES
from ..tools.budget import TRIED_UPDATES, not_annealed, seconds, updates_within
from ..tools.figures import import_matplotlib
from ..tools.processes import finish, start
from . import folder
from .compare import compare_entries, entries_of_suite, write_comparison
from .engine import (
    STOPPING,
    Command,
    Grid,
    Pool,
    Processes,
    Run,
    command_of,
    fastest_jobs,
    require_none,
    resumable,
    shares_of_cores,
    train_all,
)
from .plan import Arm, Plan
from .room import require_room
from .suite_results import (
    DOCUMENT,
    PAGE,
    Suite,
    TrainedArm,
    document_of,
    saved_arms,
    text_of,
    write_results,
)

PICTURES = "compare"
"""The folder with the comparison of the variants."""


def suite(
    plan: Plan,
    out: str | Path | None = None,
    jobs: int | None = None,
    log: Callable[[str], None] = lambda _: None,
    brought: Callable[[Config], Brought] = lambda _: Brought(),
    more: Sequence[str] = (),
    first: Sequence[str] = (),
    *,
    ray: str | None = None,
    part: tuple[int, int] | None = None,
    prepare: bool = False,
    command: Callable[[Run], Command] | None = None,
    origin: dict[str, str] | None = None,
    keep: int = KEPT,
    root: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train every run of a plan; return the directory and the results, plain values.

    out: a directory, by default under `runs/`; finished runs in it are kept, stopped ones are
    resumed, and games, variants and seeds may be added.  jobs: runs at once, each on its share of
    the cores; None chooses.  brought: returns the user's own classes for some settings.  more,
    first: options of the runs, see `command_of`.  ray: the address of a Ray cluster that trains the
    runs.  prepare: write all choices to `suite.json`, and train nothing.  part: (k, n) trains the
    k-th of n parts of a prepared suite, counted from 0, while other processes train the others; the
    next command without a part writes the results.  command: returns the command that begins or
    resumes a run, by default that of this version.  origin: what the runs come from besides their
    settings, such as versions and first weights; it is stored and must stay the same.  keep: the
    checkpoints that `more` asks for.  root: the directory to name for a command that continues, if
    the suite is a part of something.
    The results are also in `suite.json`, `results.csv` and `results.md`, which are written after
    every run.
    UsageError for a plan that cannot be trained here, before anything is written; RunError if runs
    failed, after all others have been trained; Stopped after a signal, with checkpoints of the
    active runs.
    """
    path = None if out is None else real_path(out)
    origin = origin or {}
    document = None if path is None else folder.read_document(path / DOCUMENT)
    known = {} if path is None else saved_arms(document, path, plan, origin)
    number = len(plan.arms) * len(plan.seeds)
    mine = slice(part[0], None, part[1]) if part else slice(None)
    mine_number = len(range(number)[mine])
    seeds = None if document is None else document["seeds"]
    prepared = known.keys() == plan.arms.keys() and seeds == plan.seeds
    if part is not None and (prepare or not prepared):
        raise UsageError(
            "a part needs a suite that is prepared: use --prepare first, with the same --out, "
            "games and seeds"
        )
    if path is not None and part is None:
        folder.require_free(path, DOCUMENT)  # fails before minutes of measuring, not after
    foreign = command is not None
    with ExitStack() as stack:
        signals = stack.enter_context(Signals(STOPPING))
        device = _device(plan)
        configs = [arm.config for arm in known.values()]
        configs += [arm.config for arm in plan.arms.values()]
        threads = max((each.threads for each in configs if each.threads), default=None)
        if jobs is None:
            jobs = fastest_jobs(mine_number, device, threads or 1)
        shares = shares_of_cores(jobs)
        if threads is None:
            # Other machines, with one core or more for each run, may train a prepared suite.
            threads = 1 if prepare or ray else max(1, usable_cores() // len(shares))
        arms = _trained_arms(plan, known, threads, brought)
        command = command or partial(command_of, more=more, first=first)
        pool: Pool = Processes(shares, command)
        if ray is not None:
            from .ray_pool import RayPool

            threads = max(arm.config.threads or 1 for arm in arms.values())
            pool = RayPool(ray, threads, int(device == "cuda"), command)
        stack.enter_context(closing(pool))
        log(f"{mine_number} run{'s' if mine_number > 1 else ''}, {pool.text}")
        if (budget := plan.budget) is not None:
            arms = _with_steps(
                arms, known, lambda config: _within(config, budget, shares, more, signals, log)
            )
        configs_by_name = {name: arm.config for name, arm in arms.items()}
        grid = Grid(path or Path(), configs_by_name, plan.seeds, plan.until)
        needs = {
            grid.run(name, seed).name: arm.needs.with_kept(keep)
            for name, arm in arms.items()
            for seed in grid.seeds
        }
        here = 0 if prepare or ray is not None else len(shares)
        require_room(grid.runs[mine], needs, here, path or Path.cwd())
        if path is None:
            path = folder.default_path("suite", next(iter(grid.arms.values())))
            grid = grid._replace(path=path)
        runs = grid.runs[mine]
        made = Suite(grid, arms, plan.budget, {}, origin)
        if not foreign:  # settings of another version cannot be read here
            folder.require_same_settings(grid)
        if part is not None:
            failures = train_all(
                runs, pool, lambda run: text_of(document_of(made), run), signals, log
            )
            require_none(failures, len(runs), path)
            return path, document_of(made)
        stack.enter_context(closing(folder.open_folder(path, DOCUMENT, log)))
        if folder.read_document(path / DOCUMENT) != document:
            raise UsageError(f"another command has changed {path} meanwhile; repeat this one")
        results = write_results(made)
        if prepare:
            log(f"prepared {path}")
            return path, results

        log(f"training in {path}")
        with resumable(root or path, log):
            failures = train_all(
                runs, pool, lambda run: text_of(write_results(made), run), signals, log
            )
            made.failures.update(failures)
        results = write_results(made)
        if plan.until is not None:  # scores of such runs cannot be compared
            log(f"the results are in {path / PAGE}")
        elif not foreign:
            comparison = f", the comparison in {path / PICTURES}" if _draw(path, log) else ""
            log(f"the results are in {path / PAGE}{comparison}")
    require_none({r["run"]: r["error"] for r in results["runs"] if r["error"]}, number, path)
    return path, results


def _with_steps(
    arms: dict[str, TrainedArm],
    known: dict[str, TrainedArm],
    within: Callable[[Config], Config],
) -> dict[str, TrainedArm]:
    """Return the arms with the steps of a budget, the same for all variants of a preset in a game.

    known: arms whose steps were measured before.  within: measures the steps that fit.
    """
    steps = {
        (arm.config.game, arm.config.preset): arm.config.total_timesteps for arm in known.values()
    }
    found = {}
    for name, arm in arms.items():
        kind = arm.config.game, arm.config.preset
        if kind not in steps:
            steps[kind] = within(arm.config).total_timesteps
        config = dataclasses.replace(arm.config, total_timesteps=steps[kind])
        found[name] = arm._replace(config=config)
    return found


def _draw(path: Path, log: Callable[[str], None]) -> bool:
    """Compare the variants, as `ppo37 compare` does, with pictures in the folder `compare`.

    Returns False, with the reason to `log`, if that cannot be done.
    """
    try:
        import_matplotlib()
        write_comparison(compare_entries(entries_of_suite(path, log)), path / PICTURES)
    except UsageError as error:  # the runs are trained all the same
        log(f"no pictures: {error}")
        return False
    return True


def _trained_arms(
    plan: Plan, known: dict[str, TrainedArm], threads: int, brought: Callable[[Config], Brought]
) -> dict[str, TrainedArm]:
    """Return the arms with the choices for `auto` that are known, or else with new ones."""
    found = {}
    for name, arm in plan.arms.items():
        for seed in plan.seeds:
            dataclasses.replace(arm.config, seed=seed)  # checks it
        its = brought(arm.config)  # refuses names that the user has not typed, also for known arms
        found[name] = known.get(name) or _resolved(arm, threads, its)
    return found


def _device(plan: Plan) -> str:
    """Return the device of all runs; UsageError if they have different ones."""
    found = {resolve_device(arm.config.device) for arm in plan.arms.values()}
    if len(found) > 1:
        raise UsageError("all runs of a suite need the same --device")
    return found.pop()


def _resolved(arm: Arm, threads: int, brought: Brought) -> TrainedArm:
    config = dataclasses.replace(arm.config, device=resolve_device(arm.config.device))
    found = folder.resolve(config, threads, brought)
    return TrainedArm(arm.variant, arm.config, *found)


def _within(
    config: Config,
    budget: str,
    shares: list[list[int]],
    more: Sequence[str],
    signals: Signals,
    log: Callable[[str], None],
) -> Config:
    """Return settings with the steps that fit in a budget, measured with a run in every place."""
    log(f"{config.game}: measuring {TRIED_UPDATES} updates of {len(shares)} runs at once")
    tried = dataclasses.replace(
        not_annealed(config), total_timesteps=TRIED_UPDATES * config.batch_size
    )
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        runs = [Run(tried, Path(temporary) / str(place)) for place in range(len(shares))]
        began = time.monotonic()
        children = []
        for run, cores in zip(runs, shares, strict=True):
            child = start(*command_of(run, more).arguments, cores=cores)
            stack.callback(child.close)
            stack.callback(child.process.kill)
            children.append(child)
        for child in children:
            finish(child, signals)
        whole_s = time.monotonic() - began
        logs = [[record["wall_s"] for record in read_metrics(run.path)] for run in runs]
    # The last update is followed by a checkpoint, which is usually saved every two minutes.
    update_s = mean(
        median(after - before for before, after in itertools.pairwise(ends))
        for ends in (ends[WARM_UP_UPDATES - 1 : -1] for ends in logs)
    )
    start_up_s = max(0.0, whole_s - max(ends[-1] for ends in logs))
    updates = updates_within(seconds(budget), update_s, start_up_s)
    fitting = dataclasses.replace(config, total_timesteps=updates * config.batch_size)
    sps = config.batch_size / update_s
    log(f"{config.game}: {fitting.agent_steps:,} agent steps fit in {budget}, at {sps:,.0f} SPS")
    return fitting
