"""An ablation study: agents trained with and without each detail of PPO, on the same seeds.

Each arm is trained with each seed. Every such run is an ordinary run directory, made by
`ppo37 train` in its own process.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..backends.device import resolve_device, usable_cores
from ..build import Brought
from ..config import Config
from ..session.files import real_path
from ..session.signals import Signals
from ..tools.figures import import_matplotlib
from . import folder
from .ablation_arms import make_arms
from .ablation_results import DOCUMENT, Study, measure, write_results
from .engine import (
    STOPPING,
    Grid,
    Processes,
    Run,
    command_of,
    require_none,
    resumable,
    shares_of_cores,
    train_all,
)
from .seeds import seeds_from


def ablate(
    config: Config,
    details: Sequence[str] | None = None,
    seeds: int | Sequence[int] = 3,
    out: str | Path | None = None,
    jobs: int = 1,
    log: Callable[[str], None] = lambda _: None,
    brought: Brought | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train `config` with and without each detail, and compare; return the path and the result.

    details: numbers such as `4`, `D04`, `A3`; None takes each of the 37 that has a switch and an
    effect in `config`.  seeds: the seeds, or their number, starting at `config.seed`.  out: a
    directory, by default under `runs/`; finished runs in it are kept, and stopped ones are resumed.
    jobs: runs at once, each on its share of the cores.  brought: the user's own classes.
    The result consists of plain values. It is also in `ablation.json`, with the picture
    `ablation.png`; both are updated after every run.
    UsageError for wrong arguments, before anything is written; RunError if runs failed, after all
    others have been trained; Stopped after a signal, with checkpoints of the active runs.
    """
    chosen = seeds_from(seeds, config.seed)
    shares = shares_of_cores(jobs)
    import_matplotlib()  # fails before hours of training, not after
    config = dataclasses.replace(config, device=resolve_device(config.device))
    make_arms(config, details, log)
    for seed in chosen:
        dataclasses.replace(config, seed=seed)  # checks it
    resolved = folder.resolve(config, max(1, usable_cores() // jobs), brought or Brought()).config
    path = folder.default_path("ablation", config) if out is None else real_path(out)
    with Signals(STOPPING) as signals, closing(folder.open_folder(path, DOCUMENT, log)):
        known = folder.read_document(path / DOCUMENT)
        if known is not None:
            what = f"{path} has a study of another configuration"
            resolved = folder.with_known_choices(config, known.get("config"), what)
        arms = make_arms(resolved, details, lambda _: None)
        study = Study(arms, Grid(path, {arm.name: arm.config for arm in arms}, chosen))
        runs = study.grid.runs
        folder.require_same_settings(study.grid)
        log(
            f"{len(runs)} runs of {config.agent_steps:,} agent steps in {path}: "
            f"{len(arms)} arms x {len(chosen)} seeds, {jobs} at once"
        )
        results = {run.name: measure(run) for run in runs if run.is_finished}
        write_results(study, results)

        def finished(run: Run) -> str:
            result = results[run.name] = measure(run)
            write_results(study, results)
            return "no game ended late" if result.score is None else f"score {result.score:.2f}"

        with resumable(path, log), closing(Processes(shares, command_of)) as pool:
            failures = train_all(runs, pool, finished, signals, log)
    document = write_results(study, results)
    require_none(failures, len(runs), path / DOCUMENT)
    return path, document
