"""What each detail is worth: agents trained with it and without it, on the same seeds.

Legend: an arm is one configuration, `all` as it was given and the others with one detail
switched; S seeds, the same in every arm; P slices of a run's steps. Every arm and seed is an
ordinary run directory, made by `ppo37 train` in a process of its own.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ..backends.device import describe_machine, resolve_device, usable_cores, versions
from ..backends.precision import choose_precision
from ..build import make_agent, make_factory
from ..config import Config, arguments_of, describe, flags, from_dict
from ..envs import VecEnv
from ..envs.games import title
from ..errors import RunError, Stopped, UsageError
from ..networks.agent import Agent
from ..session import directory
from ..session.files import TEMPORARY, own_folder, real_path, to_json, write_atomically
from ..session.metrics import FRAMES_PER_STEP, read_metrics
from ..session.signals import Signals
from ..session.view import duration
from . import ablation_plot as picture
from .bench import commit
from .details import AUXILIARY, Detail, find, load
from .plots import import_matplotlib, save_png
from .processes import POLL_S, Child, start
from .stats import t_interval_of_mean

DOCUMENT, PICTURE = "ablation.json", "ablation.png"
BASE = "all"
SLICES = 40
"""Parts of equal steps that a learning curve has, where a run has so many updates."""
LAST_PART = 4
"""The score is that of the last 1/4 of the steps."""
TELL_EVERY_S = 60.0
STOPPING = "stopping: the runs at work leave checkpoints"
JUDGEMENT = {
    "score": "mean raw score of the whole games that ended in the last quarter of the steps",
    "area": f"area under the learning curve: its mean over all steps, in up to {SLICES} slices of "
    "equal steps, each with the mean score of the games that ended in it (the slice before, if "
    "none did)",
}
"""Steps and not games, because a window of 100 games is later in training for who plays longer."""


class Arm(NamedTuple):
    """One configuration of a study; `detail` is None for the one that others are compared with."""

    detail: Detail | None
    config: Config

    @property
    def name(self) -> str:
        """As in the names of its runs."""
        return f"{_how(self.detail)}_{self.detail.tag}" if self.detail else BASE

    @property
    def label(self) -> str:
        """For people."""
        if self.detail is None:
            return "all details"
        return f"{_how(self.detail)} {self.detail.tag} {self.detail.name}"


class Run(NamedTuple):
    """One arm with one seed, and where it is trained."""

    arm: Arm
    config: Config
    path: Path


class Study(NamedTuple):
    """All that is trained, in the directory `path`."""

    path: Path
    arms: list[Arm]
    seeds: list[int]

    @property
    def runs(self) -> list[Run]:
        """Seed by seed, so that a study that is stopped has compared what it has trained."""
        return [
            Run(arm, dataclasses.replace(arm.config, seed=seed), self.path / f"{arm.name}__s{seed}")
            for seed in self.seeds
            for arm in self.arms
        ]


class Result(NamedTuple):
    """A finished run in numbers: see JUDGEMENT. None where no game ended; `curve` has P values."""

    score: float | None
    area: float | None
    curve: list[float] | None
    games: int
    games_judged: int
    wall_s: float


def ablate(
    config: Config,
    details: Sequence[str] | None = None,
    seeds: int = 3,
    out: str | Path | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Train `config` with and without each detail, and compare: where, and the result.

    details: numbers such as `4`, `D04`, `A3`; None takes each of the 37 that has a switch and is
    on.  seeds: how many, from `config.seed` on.  out: a directory, by default under `runs/`; what
    is finished in it is not trained again, and what stopped goes on.  jobs: runs at once, each on
    its share of the cores.
    The result, plain values, is `ablation.json` there, beside `ablation.png`; both are renewed
    after every run.
    UsageError for what cannot work, before anything is written; RunError if runs failed, after
    all others have been trained; Stopped after a signal, with checkpoints of the runs at work.
    """
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {seeds}")
    shares = shares_of_cores(jobs)
    import_matplotlib()  # before hours of training
    config = dataclasses.replace(config, device=resolve_device(config.device))
    make_arms(config, details, say)
    dataclasses.replace(config, seed=config.seed + seeds - 1)  # refused now, or never
    with closing(make_factory(config, num_threads=1)(1, config.seed)) as envs:
        agent = make_agent(config, envs.obs_shape, envs.action_names)
    path = real_path(out) if out is not None else _default_path(config)
    with Signals(STOPPING) as signals, closing(_open(path, say)):
        config = _settle(path, config, envs, agent, max(1, usable_cores() // jobs))
        arms = make_arms(config, details, lambda _: None)
        study = Study(path, arms, [config.seed + turn for turn in range(seeds)])
        _require_ours(study)
        say(
            f"{len(study.runs)} runs of {config.agent_steps:,} agent steps in {path}: "
            f"{len(arms)} arms x {seeds} seeds, {jobs} at once"
        )
        results = {run.path.name: judge(run) for run in study.runs if _finished(run)}
        _report(study, results)
        try:
            failures = _train_all(study, results, shares, signals, say)
        except Stopped:
            say(f"to go on, give the same command with --out {path}")
            raise
    document = _report(study, results)
    if failures:
        raise RunError(
            f"{len(failures)} of {len(study.runs)} runs failed, the others are judged in "
            f"{path / DOCUMENT}; first {failures[0]}"
        )
    return path, document


def make_arms(
    config: Config, details: Sequence[str] | None, say: Callable[[str], None]
) -> list[Arm]:
    """The configuration as it is, and once for each detail with that one switched.

    details: as for `ablate`; UsageError for one that cannot be compared, and a note through `say`
    for one that nobody named.
    """
    arms = [Arm(None, config)]
    named = details is not None
    for detail in _chosen(details) if details is not None else _default_details(config):
        try:
            switched = _switched(config, detail)
            same = [arm.detail.tag for arm in arms if arm.detail and arm.config == switched]
            if same:
                say(f"left out: {detail.tag} ({detail.name}) is the same arm as {same[0]}")
            else:
                arms.append(Arm(detail, switched))
        except UsageError as error:
            if named:
                raise
            say(f"left out: {error}")
    if len(arms) == 1:
        raise UsageError("no detail can be switched in this configuration; name some by --details")
    return arms


def judge(run: Run) -> Result:
    """The scores of a finished run, by the rules in JUDGEMENT."""
    records = read_metrics(run.path)
    games = [
        (record["frames"] // FRAMES_PER_STEP, float(game["return"]))
        for record in records
        for game in record["episodes"]
    ]
    total = run.config.agent_steps
    last = [score for steps, score in games if steps * LAST_PART > total * (LAST_PART - 1)]
    curve = learning_curve(games, total, min(SLICES, run.config.num_updates))
    return Result(
        float(np.mean(last)) if last else None,
        float(np.mean(curve)) if curve else None,
        curve,
        len(games),
        len(last),
        records[-1]["wall_s"],
    )


def learning_curve(
    games: Iterable[tuple[int, float]], total_steps: int, slices: int
) -> list[float] | None:
    """Mean score of the games that ended in each of P equal slices of the steps, [P].

    games: steps when each ended (1 to `total_steps`), and its score.  A slice in which none ended
    has the value of the one before, the first ones that of the first game known; None without any.
    """
    ended: list[list[float]] = [[] for _ in range(slices)]
    for steps, score in games:
        ended[(steps * slices - 1) // total_steps].append(score)
    known = [float(np.mean(scores)) for scores in ended if scores]
    if not known:
        return None
    value, curve = known[0], []
    for scores in ended:
        value = float(np.mean(scores)) if scores else value
        curve.append(value)
    return curve


def difference(of: dict[int, float | None], base: dict[int, float | None]) -> dict[str, Any]:
    """How far an arm is from the base: by seed, on average, and a 95% interval of that average.

    of, base: a number for each seed that is trained. Seeds that lack one in either are left out;
    without two pairs there is no interval, without one no average.
    """
    by_seed = {
        seed: value - known
        for seed, value in of.items()
        if value is not None and (known := base.get(seed)) is not None
    }
    values = list(by_seed.values())
    return {
        "by_seed": {str(seed): value for seed, value in by_seed.items()},
        "mean": float(np.mean(values)) if values else None,
        "interval": list(t_interval_of_mean(values)) if len(values) > 1 else None,
    }


def table(document: dict[str, Any]) -> str:
    """A result of `ablate` for people."""
    config, seeds = document["config"], document["seeds"]
    base = describe(from_dict(config), without=("total_timesteps",))
    head = (
        f"{title(config['game'])}, {base}, protocol {config['protocol']}, "
        f"{document['agent_steps']:,} agent steps, {picture.name_seeds(seeds)}"
    )
    width = max(len(arm["label"]) for arm in document["arms"])
    columns = ("score", "difference (95% interval)", "area", "difference (95% interval)")
    rows = [f"{'':{width}}  {columns[0]:>9}  {columns[1]:28}  {columns[2]:>9}  {columns[3]}"]
    for arm in document["arms"]:
        cells = [f"{arm['label']:{width}}"]
        for what in ("score", "area"):
            mean, gap = arm[f"{what}_mean"], arm[f"{what}_difference"]
            cells.append(f"{'-' if mean is None else format(mean, ',.2f'):>9}")
            cells.append(f"{'' if gap is None else picture.name_difference(gap):28}")
        rows.append("  ".join(cells).rstrip())
    rules = [f"{name}: {rule}" for name, rule in document["judgement"].items()]
    return "\n".join([head, *rows, *rules, *document["notes"]])


def shares_of_cores(jobs: int) -> list[list[int]]:
    """The cores of each of `jobs` runs at once; no names where one run has all of them."""
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}")
    if jobs == 1:
        return [[]]
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("this system cannot tie runs to cores: leave --jobs at 1")
    if jobs > usable_cores():
        raise UsageError(f"--jobs must be at most {usable_cores()}, the cores here, not {jobs}")
    return [share.tolist() for share in np.array_split(sorted(os.sched_getaffinity(0)), jobs)]


def _how(detail: Detail) -> str:
    """Auxiliary details are off unless they are switched on."""
    return "with" if detail.group == AUXILIARY else "without"


def _default_details(config: Config) -> list[Detail]:
    """Those of the 37 that are at work and have a switch."""
    return [
        detail
        for detail in load()
        if detail.switch and detail.group != AUXILIARY and not _missing(config, detail)
    ]


def _missing(config: Config, detail: Detail) -> dict[str, Any]:
    """The settings that a detail needs and that are not so."""
    return {name: value for name, value in detail.needs.items() if getattr(config, name) != value}


def _chosen(numbers: Sequence[str]) -> list[Detail]:
    """The details that people name, each once."""
    chosen = {}
    for number in numbers:
        detail = find(number.strip())
        if not detail.switch:
            some = ", ".join(other.tag for other in load() if other.switch)
            raise UsageError(f"{detail.tag} ({detail.name}) has no switch; choose from {some}")
        chosen[detail.tag] = detail
    return list(chosen.values())


def _switched(config: Config, detail: Detail) -> Config:
    """The configuration with one detail switched; UsageError if that changes nothing."""
    name, switch = f"{detail.tag} ({detail.name})", detail.switch
    if missing := _missing(config, detail):
        raise UsageError(f"{name} is at work with {' '.join(flags(missing))} only")
    try:
        switched = from_dict({**dataclasses.asdict(config), **switch})
    except UsageError as error:
        raise UsageError(f"{name} by {' '.join(flags(switch))}: {error}") from error
    if _plain(switched) == _plain(config):
        raise UsageError(f"{name}: {' '.join(flags(switch))} changes nothing in this configuration")
    return switched


def _plain(config: Config) -> Config:
    """Equal for configurations that mean the same."""
    return dataclasses.replace(config, frame_stack=config.num_frames)


def _default_path(config: Config) -> Path:
    """A directory of its own, also for studies that begin in the same second."""
    name = f"ablation__{config.game}__{config.preset}__{int(time.time())}"
    return directory.claim(directory.alternatives(real_path(Path("runs", name))))


def _open(path: Path, say: Callable[[str], None]) -> IO[str]:
    """Make the directory of a study, or take one that is, and hold its lock until it is closed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        strangers = {entry.name for entry in path.iterdir() if not entry.match(TEMPORARY)}
        strangers.discard(directory.LOCK)
    except OSError as error:
        raise UsageError(f"cannot use {path}: {error.strerror}; choose another --out") from error
    if strangers and DOCUMENT not in strangers:
        raise UsageError(f"{path} is not empty and holds no {DOCUMENT}; choose another --out")
    return directory.lock(path, say)


def _settle(path: Path, config: Config, envs: VecEnv, agent: Agent, threads: int) -> Config:
    """The configuration with precision, kernels and threads, chosen once for the whole study.

    threads: of a run where none are asked for.  UsageError if the study in `path` is of another
    configuration.
    """
    if not (path / DOCUMENT).exists():
        # Decided once: a run that goes on on another machine keeps to it.
        agent = agent.to(config.device)
        choice = choose_precision(config, agent, envs.obs_shape, config.minibatch_size)
        return dataclasses.replace(choice.applied(config), threads=config.threads or threads)
    try:
        known = from_dict(json.loads((path / DOCUMENT).read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path / DOCUMENT} is damaged; choose another --out") from error
    for name, left_open in (("precision", "auto"), ("kernels", "auto"), ("threads", None)):
        if getattr(config, name) == left_open:
            config = dataclasses.replace(config, **{name: getattr(known, name)})
    changed = [
        f"{name} {value}, not {getattr(config, name)}"
        for name, value in dataclasses.asdict(known).items()
        if value != getattr(config, name)
    ]
    if changed:
        raise UsageError(
            f"{path} holds a study of another configuration ({'; '.join(changed)}); choose "
            "another --out"
        )
    return config


def _require_ours(study: Study) -> None:
    """UsageError if a run is there that is not what this study would train."""
    for run in study.runs:
        own_folder(study.path, run.path.name)
        if not directory.is_run(run.path):
            continue
        found = directory.read_config(run.path)
        # Studies of older versions have no threads in their document, but in what they begin now.
        if dataclasses.replace(found, threads=run.config.threads) != run.config:
            raise UsageError(f"{run.path} is a run of other settings; choose another --out")


def _finished(run: Run) -> bool:
    """Whether a run has come to its end; one that stopped, or whose summary is torn, has not."""
    try:
        return bool(json.loads((run.path / directory.SUMMARY).read_text())["finished"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


class _Active(NamedTuple):
    run: Run
    child: Child
    cores: list[int]


def _train_all(
    study: Study,
    results: dict[str, Result],
    shares: list[list[int]],
    signals: Signals,
    say: Callable[[str], None],
) -> list[str]:
    """Train what has no result yet, one run in each share of the cores; the failures in words.

    A run that fails does not end the others: it may be one that diverges without its detail.
    """
    waiting = [run for run in study.runs if run.path.name not in results]
    free, active, failures = list(shares), list[_Active](), list[str]()
    outlook = ProgressReporter(study)
    try:
        while waiting or active:
            signals.check()
            while waiting and free:
                active.append(_begin(waiting.pop(0), free.pop(0), say))
            for one in [one for one in active if one.child.process.poll() is not None]:
                active.remove(one)
                free.append(one.cores)
                failures += _end(one, results, say)
                _report(study, results)
            outlook.tell(active, say)
            time.sleep(POLL_S)
    finally:
        _stop(active)
    return failures


def _begin(run: Run, cores: list[int], say: Callable[[str], None]) -> _Active:
    if directory.is_run(run.path):
        say(f"{run.path.name} goes on")
        return _Active(run, start("resume", str(run.path), cores=cores), cores)
    say(f"{run.path.name} begins")
    words = ("train", *arguments_of(run.config), "--out", str(run.path))
    return _Active(run, start(*words, cores=cores), cores)


def _end(one: _Active, results: dict[str, Result], say: Callable[[str], None]) -> list[str]:
    """Note the result of a run that has ended, or return what it failed by."""
    name = one.run.path.name
    words = one.child.stderr_tail()
    one.child.close()
    if one.child.process.returncode != 0 or not _finished(one.run):
        say(f"{name} failed: {words}")
        return [f"{name}: {words}"]
    result = results[name] = judge(one.run)
    score = "no game ended late" if result.score is None else f"score {result.score:.2f}"
    say(f"{name} finished after {duration(result.wall_s)}: {score}")
    return []


def _stop(active: list[_Active]) -> None:
    """End all runs at work, with a checkpoint of each."""
    for one in active:
        one.child.process.terminate()
    for one in active:
        one.child.close()


class ProgressReporter:
    """Tells now and then how far a study is."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._begun_s = self._told_s = time.monotonic()
        self._begun_with = self._done()

    def tell(self, active: list[_Active], say: Callable[[str], None]) -> None:
        """Say it if it is time."""
        now = time.monotonic()
        if now - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now
        done, total = self._done(), sum(run.config.num_updates for run in self._study.runs)
        runs = [one.run for one in active]
        at_work = [f"{run.path.name} {_updates(run) / run.config.num_updates:.0%}" for run in runs]
        pace = (done - self._begun_with) / (now - self._begun_s)
        left = f", about {duration((total - done) / pace)} left" if pace else ""
        say(f"{', '.join(at_work)}; {done / total:.0%} of all{left}")

    def _done(self) -> int:
        return sum(_updates(run) for run in self._study.runs)


def _updates(run: Run) -> int:
    """Updates that a run has logged."""
    try:
        return (run.path / directory.METRICS).read_bytes().count(b"\n")
    except OSError:
        return 0


def _report(study: Study, results: dict[str, Result]) -> dict[str, Any]:
    """Write what is known so far, and draw it as soon as every arm has a run."""
    document = _document(study, results)
    try:
        write_atomically(study.path / DOCUMENT, to_json(document))
    except OSError as error:
        raise RunError(
            f"cannot write {study.path / DOCUMENT}: {error.strerror}; the runs are valid, and the "
            "same command goes on"
        ) from error
    if all(arm["score_mean"] is not None for arm in document["arms"]):
        save_png(picture.figure(document), study.path / PICTURE)
    return document


def _document(study: Study, results: dict[str, Result]) -> dict[str, Any]:
    base = study.arms[0]
    slices = min(SLICES, base.config.num_updates)
    numbers = {
        what: {arm.name: _by_seed(study, results, arm, what) for arm in study.arms}
        for what in ("score", "area")
    }
    missing = [run.path.name for run in study.runs if run.path.name not in results]
    return {
        "config": dataclasses.asdict(base.config),
        "agent_steps": base.config.agent_steps,
        "seeds": study.seeds,
        "judgement": JUDGEMENT,
        "notes": _notes(len(study.seeds), missing),
        "complete": not missing,
        "missing": missing,
        "curve_steps": [base.config.agent_steps * (i + 1) / slices for i in range(slices)],
        "arms": [_arm_document(study, results, arm, numbers) for arm in study.arms],
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
    }


def _arm_document(
    study: Study,
    results: dict[str, Result],
    arm: Arm,
    numbers: dict[str, dict[str, dict[int, float | None]]],
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": arm.name,
        "label": arm.label,
        "detail": arm.detail.tag if arm.detail else None,
        "switch": arm.detail.switch if arm.detail else {},
        "config": dataclasses.asdict(arm.config),
        "runs": [
            {"run": run.path.name, "seed": run.config.seed, **results[run.path.name]._asdict()}
            for run in study.runs
            if run.arm is arm and run.path.name in results
        ],
    }
    for what, by_arm in numbers.items():
        known = [value for value in by_arm[arm.name].values() if value is not None]
        document[f"{what}_mean"] = float(np.mean(known)) if known else None
        gap = difference(by_arm[arm.name], by_arm[BASE]) if arm.detail else None
        document[f"{what}_difference"] = gap
    return document


def _by_seed(
    study: Study, results: dict[str, Result], arm: Arm, what: str
) -> dict[int, float | None]:
    return {
        run.config.seed: getattr(results[run.path.name], what)
        for run in study.runs
        if run.arm is arm and run.path.name in results
    }


def _notes(seeds: int, missing: list[str]) -> list[str]:
    """What a reader of the numbers must know."""
    base = (
        "all differences are to the same runs of `all details`: what was luck in those is in "
        "every one of them"
    )
    notes = [
        f"interval: 95%, Student's t over the differences of {seeds} seeds, run by run of the same "
        "seed; it takes them to be normal, and holds for each detail by itself: of twenty, one is "
        "expected to miss. One that holds 0 does not show that a detail does nothing: few seeds "
        "tell only large effects from chance",
        base,
    ]
    if seeds == 1:
        notes = ["no interval: one seed does not tell an effect from chance", base]
    if missing:
        notes.append(f"missing: {', '.join(missing)}")
    return notes
