"""An ablation study: agents trained with and without each detail of PPO, on the same seeds.

Every arm with every seed is an ordinary run directory, made by `ppo37 train` in its own process.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from ..backends.device import resolve_device, usable_cores
from ..backends.precision import choose_precision
from ..build import make_agent, make_factory
from ..config import Config, from_dict
from ..envs import VecEnv, spaces_of
from ..errors import RunError, Stopped, UsageError
from ..networks.agent import Agent
from ..session import directory
from ..session.files import OTHER_OUT, TEMPORARY, explained, own_folder, real_path
from ..session.signals import Signals
from ..tools.figures import import_matplotlib
from .ablation_arms import Study, make_arms
from .ablation_results import DOCUMENT, measure, write_results
from .engine import is_finished, shares_of_cores, train_all

STOPPING = "stopping: the active runs save checkpoints"


def ablate(
    config: Config,
    details: Sequence[str] | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    jobs: int = 1,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Train `config` with and without each detail, and compare; return the path and the result.

    details: numbers such as `4`, `D04`, `A3`; None takes each of the 37 that has a switch and is
    on.  seeds: their number, starting at `config.seed`.  out: a directory, by default under
    `runs/`; finished runs in it are kept, and stopped ones are resumed.  jobs: runs at once, each
    on its share of the cores.
    The result, plain values, is also in `ablation.json`, with the picture `ablation.png`; both
    are updated after every run.
    UsageError for wrong arguments, before anything is written; RunError if runs failed, after all
    others have been trained; Stopped after a signal, with checkpoints of the active runs.
    """
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {seeds}")
    shares = shares_of_cores(jobs)
    import_matplotlib()  # fails before hours of training, not after
    config = dataclasses.replace(config, device=resolve_device(config.device))
    make_arms(config, details, log)
    dataclasses.replace(config, seed=config.seed + seeds - 1)  # checks the last seed
    with closing(make_factory(config, num_threads=1)(1, config.seed)) as envs:
        agent = make_agent(config, spaces_of(envs))
    path = real_path(out) if out is not None else _default_path(config)
    with Signals(STOPPING) as signals, closing(_open_study(path, log)):
        config = _resolve_auto(path, config, envs, agent, max(1, usable_cores() // jobs))
        arms = make_arms(config, details, lambda _: None)
        study = Study(path, arms, [config.seed + i for i in range(seeds)])
        _require_same_settings(study)
        log(
            f"{len(study.runs)} runs of {config.agent_steps:,} agent steps in {path}: "
            f"{len(arms)} arms x {seeds} seeds, {jobs} at once"
        )
        results = {run.name: measure(run) for run in study.runs if is_finished(run)}
        write_results(study, results)
        try:
            failures = train_all(study, results, shares, signals, log)
        except Stopped:
            log(f"to resume, repeat the command with --out {path}")
            raise
    document = write_results(study, results)
    if failures:
        raise RunError(
            f"{len(failures)} of {len(study.runs)} runs failed, the first is {failures[0]}; "
            f"{path / DOCUMENT} has the results of the others"
        )
    return path, document


def _default_path(config: Config) -> Path:
    """Make a new directory, also if several studies start in the same second."""
    game, preset = directory.file_name(config.game), directory.file_name(config.preset)
    name = f"ablation__{game}__{preset}__{int(time.time())}"
    return directory.claim(directory.alternatives(real_path(Path("runs", name))))


def _open_study(path: Path, log: Callable[[str], None]) -> IO[str]:
    """Make the directory of a study if there is none, and lock it until the result is closed."""
    with explained(f"cannot use {path}", OTHER_OUT):
        path.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in path.iterdir() if not entry.match(TEMPORARY)}
    if names - {directory.LOCK} and DOCUMENT not in names:
        raise UsageError(f"{path} is not empty and has no {DOCUMENT}; choose another --out")
    return directory.lock(path, log)


def _resolve_auto(path: Path, config: Config, envs: VecEnv, agent: Agent, threads: int) -> Config:
    """Return the configuration with precision, kernels and threads, the same for all runs.

    They are chosen once: a study that is resumed on another machine keeps them.  threads: of a run
    if the configuration has None.  UsageError if the study in `path` has another configuration.
    """
    if not (path / DOCUMENT).exists():
        agent = agent.to(config.device)
        choice = choose_precision(config, agent, envs.obs_shape, config.minibatch_size)
        return dataclasses.replace(choice.applied(config), threads=config.threads or threads)
    try:
        known = from_dict(json.loads((path / DOCUMENT).read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path / DOCUMENT} is damaged; choose another --out") from error
    for name, unset in (("precision", "auto"), ("kernels", "auto"), ("threads", None)):
        if getattr(config, name) == unset:
            config = dataclasses.replace(config, **{name: getattr(known, name)})
    changed = [
        f"{name} {value}, not {getattr(config, name)}"
        for name, value in dataclasses.asdict(known).items()
        if value != getattr(config, name)
    ]
    if changed:
        raise UsageError(
            f"{path} has a study of another configuration ({'; '.join(changed)}); choose another "
            "--out"
        )
    return config


def _require_same_settings(study: Study) -> None:
    """Raise UsageError if a run in the directory has other settings than the study's run."""
    for run in study.runs:
        own_folder(study.path, run.name)
        if not directory.is_run(run.path):
            continue
        found = directory.read_config(run.path)
        # Older versions wrote the threads to the runs, but not to the study's document.
        if dataclasses.replace(found, threads=run.config.threads) != run.config:
            raise UsageError(f"{run.path} is a run of other settings; choose another --out")
