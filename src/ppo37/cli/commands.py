"""The commands: one function for each, which returns the exit code.

Modules are imported on use, so that `ppo37 --help` is fast and needs no PyTorch.
"""

import dataclasses
import json
import re
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, brought_flags, from_dict, implied_by
from ..errors import UsageError
from ..session.changes import FIXED
from ..session.files import real_path, shown
from .brought import brought, brought_object, environments, with_real_paths

if TYPE_CHECKING:
    from ..build import Brought
    from ..session.checkpoint import Checkpoint
    from ..session.observer import Observer
    from ..session.session import Summary
    from ..suites.plan import MakeConfig, Plan

SIGNAL_EXIT = 128
"""The exit code of a stopped run is this plus the number of the signal."""


def train(options: Namespace) -> int:
    """Train an agent on a game."""
    started = time.monotonic()
    from ..loop import train

    if options.seeds is not None:
        return _train_seeds(options)
    if options.jobs is not None:
        raise UsageError("--jobs is for several seeds; add --seeds")
    if options.budget is not None and options.max_time is not None:
        raise UsageError("--budget and --max-time exclude each other; use one of them")
    around = _around(options)
    config = config_of(options) if options.budget is None else _within_budget(options, started)
    around |= brought(config, options).arguments
    origin = options.init_from
    return _report(lambda: train(config, options.out, init_from=origin, **around), options.json)


def _train_seeds(options: Namespace) -> int:
    """Train the same settings with several seeds, as a suite of one game."""
    from ..suites.plan import make_plan

    if options.budget is not None and "total_timesteps" in options:
        raise UsageError("--budget and --total-timesteps exclude each other; use one of them")
    values = {"games": ["own"], "seeds": options.seeds, "budget": options.budget}

    def make_config(_: str | None, __: str | None, changes: dict[str, Any]) -> Config:
        return config_of(Namespace(**{**vars(options), **changes}))

    return _run_suite(options, make_plan(values, make_config), _first(options))


def suite(options: Namespace) -> int:
    """Train several games, seeds and variants of settings, side by side."""
    from ..suites.plan import make_plan, read_plan

    values = {} if options.plan is None else read_plan(options.plan)
    for name in ("games", "seeds", "preset", "budget"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    typed = settings_of(options)
    if not values.get("games") and "env" not in {**values.get("settings", {}), **typed}:
        raise UsageError("give PLAN.toml, or --games such as pong,breakout or atari5")
    values["seed"] = typed.pop("seed", Config.seed)
    values["settings"] = {**values.get("settings", {}), **typed}
    return _run_suite(options, make_plan(values, _maker(options)), [])


def _maker(options: Namespace) -> "MakeConfig":
    """Return what makes the settings of an arm of a plan."""

    def make_config(preset: str | None, game: str | None, changes: dict[str, Any]) -> Config:
        return _config_from(preset or "auto", game, implied_by(changes), options)

    return make_config


def _run_suite(options: Namespace, plan: "Plan", first: list[str]) -> int:
    """Train a plan, and print the results.  first: options for the beginning of each run."""
    from ..suites.suite import suite
    from ..suites.suite_results import PAGE

    if options.max_time is not None:
        raise UsageError("--max-time is for one run; for several use --budget")
    _around(options)  # checks them
    path, result = suite(
        plan,
        options.out,
        options.jobs,
        log,
        lambda config: brought(config, options),
        _more(options),
        first,
        ray=options.ray,
        part=None if options.part is None else _part(options.part),
        prepare=options.prepare,
    )
    _print_result(options, {"path": str(path), **result}, (path / PAGE).read_text().rstrip())
    return 0


def _part(text: str) -> tuple[int, int]:
    """Convert K/N to two numbers."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UsageError(f"--part takes K/N, with K from 0 to N - 1, not {text!r}")
    return int(found[1]), int(found[2])


def _more(options: Namespace) -> list[str]:
    """Return the options around a run, for each run of several."""
    names = ("checkpoint_every", "keep", "eval_every", "eval_episodes", "record_every")
    given = {name: getattr(options, name) for name in names}
    found = [f"--{n.replace('_', '-')}={v}" for n, v in given.items() if v is not None]
    found += [f"--logger={text}" for text in options.loggers]
    return found + ["--keep-best"] * options.keep_best


def _first(options: Namespace) -> list[str]:
    """Return the options that only the beginning of a run gets, for each run of several."""
    return [] if options.init_from is None else [f"--init-from={real_path(options.init_from)}"]


def _around(options: Namespace) -> dict[str, Any]:
    """Return the arguments of `train` and `resume` that never change the result."""
    from ..session.checkpoint import KEPT
    from ..session.view import ConsoleView

    for name in ("checkpoint-every", "keep", "eval-every", "eval-episodes", "record-every"):
        _require_positive(name, getattr(options, name.replace("-", "_")))
    return {
        "checkpoint_every": options.checkpoint_every,
        "view": ConsoleView(),
        "callbacks": _callbacks(options),
        "keep": options.keep or KEPT,
    }


def _callbacks(options: Namespace) -> list["Observer"]:
    """Make the callbacks that the options ask for."""
    from ..tools import callbacks

    made: list[Observer] = []
    max_time = [] if options.max_time is None else [callbacks.MaxTime(options.max_time)]
    if options.eval_every is not None:
        kind = callbacks.KeepBest if options.keep_best else callbacks.EvaluateEvery
        made.append(kind(options.eval_every, options.eval_episodes or callbacks.EPISODES))
    elif options.keep_best or options.eval_episodes is not None:
        name = "keep-best" if options.keep_best else "eval-episodes"
        raise UsageError(f"--{name} needs evaluations; add --eval-every STEPS")
    if options.record_every is not None:
        made.append(callbacks.RecordEvery(options.record_every))
    # The time limit is the last, so that it sees how long the others take.
    return [*made, *(_logger(text) for text in options.loggers), *max_time]


def _logger(text: str) -> "Observer":
    """Make the observer that --logger names."""
    from ..session.observer import Observer

    found = brought_object(text)
    if not (isinstance(found, type) and issubclass(found, Observer)):
        raise UsageError(f"--logger {text} is not a class of ppo37.Observer")
    try:
        return found()
    except TypeError as error:
        raise UsageError(f"--logger {text} cannot be made without arguments: {error}") from error


def _within_budget(options: Namespace, started: float) -> Config:
    """Return the configuration that fits in --budget, which counts from the time `started`.

    A job that torchrun has restarted keeps its first plan.
    """
    from ..backends.ranks import join
    from ..session import directory
    from ..session.start import choose_directory
    from ..tools import budget

    budget_s = budget.seconds(options.budget)
    if "total_timesteps" in options:
        raise UsageError("--budget and --total-timesteps exclude each other; use one of them")
    options.total_timesteps = budget.MOST_STEPS  # instead of the preset's
    config = config_of(options)
    with closing(join(config.device)) as ranks:
        path = Path(ranks.broadcast_from_main(lambda: choose_directory(config, options.out)))
        if options.out is not None and ranks.broadcast_from_main(lambda: directory.is_run(path)):
            return directory.read_config(path)
        is_main = ranks.is_main
    return budget.plan(config, budget_s, started, log if is_main else lambda _: None).config


def resume(options: Namespace) -> int:
    """Resume a stopped run."""
    from ..loop import resume

    around = _around(options) | _brought_by_run(options).arguments
    new_games = options.new_games
    changes = {name: value for name, value in settings_of(options).items() if name not in FIXED}
    return _report(
        lambda: resume(options.run, new_games=new_games, changes=changes, **around), options.json
    )


def _report(training: Callable[[], "Summary"], as_json: bool) -> int:
    """Train, and report how it ended. Returns the exit code.

    Only rank 0 reports, and its exit code is that of the job.
    """
    from ..backends.ranks import own_rank
    from ..session.directory import read_config
    from ..session.session import TrainingStopped

    try:
        summary = training()
    except TrainingStopped as stop:
        summary = stop.summary
    if own_rank() != 0:
        return 0
    mean = "no game has ended"
    if summary.last_100_mean is not None:
        mean = f"mean of the last {min(summary.games, 100)} games {summary.last_100_mean:.1f}"
    ended, command = ("finished", "eval") if summary.finished else ("stopped", "resume")
    if summary.stopped_by and summary.signal_number is None:
        ended = f"stopped by {summary.stopped_by}"
    log(f"{ended} after {summary.agent_steps:,} agent steps and {summary.wall_s:.0f} s: {mean}")
    again = brought_flags(read_config(summary.run))
    log(f"next: ppo37 {shlex.join([command, shown(summary.run), *again])}")
    if as_json:
        document = json.loads((summary.run / "summary.json").read_text())
        print(json.dumps({"run": str(summary.run), **document}))
    if summary.finished or summary.signal_number is None:
        return 0
    return SIGNAL_EXIT + summary.signal_number


def evaluate(options: Namespace) -> int:
    """Play whole games with an agent, and report its scores."""
    from ..tools.evaluate import evaluate
    from ..tools.stats import human_normalised, reference

    result = evaluate(
        options.run,
        options.episodes,
        options.protocol,
        options.seed,
        options.device,
        _show_progress,
        log,
        greedy=options.greedy,
        **_brought_by_run(options).arguments,
    )
    normalized, published = None, dict[str, float]()
    if result.protocol is not None:  # otherwise an environment of one's own, of any name
        normalized = human_normalised(result.game, result.mean)
        published = reference(result.game, result.protocol)
    protocol = "" if result.protocol is None else f"protocol {result.protocol}, "
    games = "1 whole game" if len(result.scores) == 1 else f"{len(result.scores)} whole games"
    lines = [
        f"{result.game}, {protocol}{games}, seed "
        f"{result.seed}, after {result.agent_steps:,} agent steps",
        f"score {result.mean:.2f} (one game is too few for an interval; --episodes 30)",
    ]
    if result.interval is not None:
        low, high = result.interval
        lines[-1] = (
            f"score {result.mean:.2f}, std {result.std:.2f} (95% interval of the mean {low:.2f} to "
            f"{high:.2f}; lowest {min(result.scores):g}, best {max(result.scores):g})"
        )
    if normalized is not None:
        rounded = round(normalized, 2) + 0.0  # + 0.0 turns -0.0 into 0.0
        lines.append(f"human-normalized {rounded:.2f} (0: random play, 1: a human)")
    if result.greedy:
        lines.append("actions: the most likely ones (greedy), instead of sampled as in training")
    means = {name: value for name, value in published.items() if not name.endswith("_std")}
    lines += [f"  published {name:28} {value:10.2f}" for name, value in means.items()]
    if result.protocol == "machado" and published:
        lines.append(
            f"  (published agents trained without the sticky actions of {result.protocol})"
        )
    if result.greedy and published:
        lines.append("  (published scores are those of sampled actions)")
    document = {**result.to_json(), "human_normalised": normalized, "published": published}
    _print_result(options, document, "\n".join(lines))
    return 0


def record(options: Namespace) -> int:
    """Make a video of an agent that plays whole games."""
    from ..tools.record import record

    _require_positive("games", options.games)
    limit = {} if options.max_seconds is None else {"max_seconds": options.max_seconds}
    made = record(
        options.run,
        options.out,
        games=options.games,
        seed=options.seed,
        protocol=options.protocol,
        device=options.device,
        warn=log,
        greedy=options.greedy,
        **_brought_by_run(options).arguments,
        **limit,
    )
    games = "" if made.games == 1 else f"{made.games} games: mean "
    greedy = ", greedy actions" if made.greedy else ""
    log(f"{games}score {made.score:g} after {made.length:,} agent steps{greedy}")
    print(shown(made.path))
    return 0


def plot(options: Namespace) -> int:
    """Draw learning curves: return against frames and wall time."""
    from ..tools.plots import plot

    runs = [Path(run) for run in options.runs]
    print(shown(plot(runs, options.out, group=options.group, warn=log)))
    return 0


def export(options: Namespace) -> int:
    """Publish the agent of a run as a small directory."""
    from ..session.checkpoint import export

    print(shown(export(_checkpoint(options.run), Path(options.out))))
    return 0


def fingerprint(options: Namespace) -> int:
    """Print a hash of everything that determines how a run continues."""
    from ..session.checkpoint import fingerprint

    saved = _checkpoint(options.run)
    found = fingerprint(saved)
    _print_result(options, {"checkpoint": str(saved.path), "fingerprint": found}, found)
    return 0


def verify_resume(options: Namespace) -> int:
    """Kill a run, resume it and compare it with one that was not killed."""
    from ..tools.verify import verify_resume

    _require_positive("updates", options.updates)
    verdict = verify_resume(config_of(options), options.updates, log)
    same, logs = (
        "identical" if equal else "NOT identical" for equal in (verdict.identical, verdict.same_log)
    )
    text = (
        f"never killed          {verdict.unbroken}\nkilled and resumed    {verdict.resumed}\n"
        f"{same} after {verdict.updates} updates; the logs are {logs}, without the clocks"
    )
    _print_result(options, verdict.to_json(), text)
    return 0 if verdict.identical else 1


def ablate(options: Namespace) -> int:
    """Train with and without each detail of PPO, and compare."""
    from ..suites.ablate import ablate
    from ..suites.ablation_results import PICTURE, table

    config = config_of(options)
    details = None if options.details is None else options.details.split(",")
    path, result = ablate(config, details, options.seeds, options.out, options.jobs, log)
    text = f"{table(result)}\n{shown(path / PICTURE)}"
    _print_result(options, {"path": str(path), **result}, text)
    return 0


def compare(options: Namespace) -> int:
    """Compare suites, runs and published scores: aggregates with intervals, and pictures."""
    from ..suites.compare import compare, table

    folder, result = compare(options.inputs, options.anchors, options.out, log)
    _print_result(options, {"path": str(folder), **result}, f"{table(result)}\n\n{shown(folder)}")
    return 0


def regress(options: Namespace) -> int:
    """Tell whether a change of the code changes what is computed, or what is learned."""
    from importlib.resources import as_file, files

    from ..suites import regress
    from ..suites.plan import make_plan, read_plan

    if options.golden:
        result = regress.check_numbers(options.base, options.head, log, options.jobs)
        text = "identical" if result["identical"] else "NOT identical"
        _print_result(options, result, f"{text}: {result['base']} and {result['head']}")
        return 0 if result["identical"] else 1

    plan = None
    if not regress.are_suites(options.base, options.head):
        with as_file(files("ppo37") / "data" / "regress.toml") as own:
            values = read_plan(options.plan or own)
        if options.seeds is not None:
            values["seeds"] = options.seeds
        plan = make_plan({**values, "seed": Config.seed}, _maker(options))
    path, result = regress.regress(
        options.base,
        options.head,
        plan,
        options.margin,
        options.out,
        options.anchors,
        options.jobs,
        log,
        lambda config: brought(config, options),
    )
    text = (path / "compare" / "table.md").read_text().rstrip()
    _print_result(options, {"path": str(path), **result}, f"{text}\n\n{_verdict(result)}")
    return 0


def _verdict(result: dict[str, Any]) -> str:
    """Describe the verdict of `regress` in a line."""
    interval = ""
    if result["interval"] is not None:
        low, high = result["interval"]
        interval = f" (95% interval {low:+.3f} to {high:+.3f})"
    return (
        f"{result['head']} beside {result['base']}: {result['verdict']}, {result['reason']}; "
        f"mean difference {result['difference']:+.3f}{interval}, "
        f"{result['seeds']} seeds"
    )


def bench(options: Namespace) -> int:
    """Measure how fast this machine is, and where the time goes."""
    from ..tools.bench import bench, peers, table

    config = config_of(options, "breakout", "classic")
    if options.peers is None:
        result = bench(config, options.seconds)
        text = table(result)
    else:
        compare, markdown = peers()
        result = compare(config, options.peers, log=log)
        text = markdown(result)
    _print_result(options, result, text)
    return 0


def details(options: Namespace) -> int:
    """List the details of PPO, or explain one beside its code."""
    from ..tools import details

    marks = details.marks()
    if options.number is None:
        found = details.load()
        documents = [details.document(detail, marks) for detail in found]
        _print_result(options, {"details": documents}, details.table(found, marks))
    else:
        detail = details.find(options.number)
        text = details.explanation(detail, marks)
        _print_result(options, details.document(detail, marks), text)
    return 0


def games(options: Namespace) -> int:
    """List the games with their published scores."""
    from ..config import CATCH
    from ..envs.games import atari_games
    from ..tools.stats import reference

    known = {game: reference(game) for game in (CATCH, *atari_games())}
    heads = ("random", "human", "PPO paper", "CleanRL/baselines PPO")
    lines = [f"{'game':24}" + "".join(f"  {head:>12}" for head in heads)]
    for game, scores in known.items():
        best = scores.get("cleanrl_ppo_atari", scores.get("baselines_ppo2"))
        columns = (scores.get("random"), scores.get("human"), scores.get("ppo_paper"), best)
        cells = ["-" if value is None else f"{value:,.1f}" for value in columns]
        wide = zip(cells, heads, strict=True)
        lines.append(
            f"{game:24}" + "".join(f"  {cell:>{max(12, len(head))}}" for cell, head in wide)
        )
    document = {"games": [{"name": game, **scores} for game, scores in known.items()]}
    _print_result(options, document, "\n".join(lines))
    return 0


def doctor(options: Namespace) -> int:
    """Check that everything needed is installed and works."""
    from ..tools.doctor import doctor, measure, speeds_table, table

    if options.measure:
        speeds = measure()
        _print_result(options, {"speeds": speeds}, speeds_table(speeds))
        return 0
    checks = doctor()
    healthy = all(check.ok for check in checks)
    document = {"ok": healthy, "checks": [check._asdict() for check in checks]}
    _print_result(options, document, table(checks))
    return 0 if healthy else 1


def check_env(options: Namespace) -> int:
    """Play your own environment, and report what is wrong with it."""
    from ..tools.check_env import check_env
    from ..tools.doctor import table

    names = ("env", "env_kwargs", "imports", "wrappers", "channels")
    settings = {name: value for name, value in settings_of(options).items() if name in names}
    made_by = environments(with_real_paths(settings), options)
    checks = check_env(made_by, options.steps)
    usable = all(check.ok for check in checks)
    document = {"ok": usable, "checks": [check._asdict() for check in checks]}
    _print_result(options, document, table(checks))
    return 0 if usable else 1


def config(options: Namespace) -> int:
    """Print settings as TOML, for --config of other commands."""
    from .settings_file import to_toml

    run = options.game and Path(options.game).exists()
    found = _config_of_run(options) if run else config_of(options)
    title = f"the settings of {shown(real_path(options.game))}" if run else f"preset {found.preset}"
    print(to_toml(found, f"{title}; ppo37 train --config FILE"))
    return 0


def _config_of_run(options: Namespace) -> Config:
    """Return the settings of the run or agent that `options.game` names, with changes."""
    from ..session.directory import read_config_of

    if options.preset or options.config:
        raise UsageError(f"{options.game} has all settings; leave --preset and --config out")
    saved = dataclasses.asdict(read_config_of(Path(options.game)))
    return from_dict({**saved, **implied_by(settings_of(options))})


def config_of(options: Namespace, game: str | None = None, preset: str = "auto") -> Config:
    """Return the configuration that GAME or --env, --config, --preset and the settings ask for.

    game, preset: used where none is given.
    """
    from .settings_file import read_settings

    typed = settings_of(options)
    if options.game is not None and "env" in typed:
        raise UsageError("give either GAME or --env: pong, CartPole-v1, --env module:Class, ...")
    in_file = read_settings(options.config) if options.config else {}
    if options.game is not None or "env" in typed:
        in_file = {name: v for name, v in in_file.items() if name not in ("game", "env")}
    preset_in_file, game_in_file = in_file.pop("preset", preset), in_file.pop("game", game)
    preset = options.preset or preset_in_file
    game = options.game or (None if "env" in typed else game_in_file)
    return _config_from(preset, game, {**in_file, **implied_by(typed)}, options)


def _config_from(
    preset: str, game: str | None, changes: dict[str, Any], options: Namespace
) -> Config:
    """Return the configuration of a preset with changes, and say what `auto` stands for."""
    from ..envs.games import is_built_in
    from ..presets import from_preset

    changes = with_real_paths(changes)
    if game is None and changes.get("env") is None:
        raise UsageError("give GAME or --env: pong, CartPole-v1, --env module:Class, ...")
    own = changes.get("env") or (None if game is None or is_built_in(game) else game)
    source = None if own is None else environments({**changes, "env": own}, options)
    config = from_preset(preset, game, make_envs=source, **changes)
    if preset == "auto" and config.env is not None:
        log(f"auto is the preset {config.preset} for {_kind(config)}")
    return config


def _kind(config: Config) -> str:
    """Describe what `auto` goes by."""
    if config.observation == "pixels":
        return "images"
    numbers = "real numbers" if config.action_space == "continuous" else "choices"
    return f"vectors and {numbers} as actions"


def _brought_by_run(options: Namespace) -> "Brought":
    """Return what RUN brings, as far as its texts stand on the command line."""
    from ..session.directory import read_config_of

    return brought(read_config_of(Path(options.run)), options)


def settings_of(options: Namespace) -> dict[str, Any]:
    """Return the settings that were given as options, by name."""
    names = {field.name for field in dataclasses.fields(Config)} - {"game", "preset"}
    return {name: value for name, value in vars(options).items() if name in names}


def _checkpoint(run: str | Path) -> "Checkpoint":
    """Return the checkpoint that RUN names, and print its warnings."""
    from ..session.directory import find_checkpoint

    saved, warnings = find_checkpoint(Path(run))
    for warning in warnings:
        log(warning)
    return saved


def _require_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"--{name} must be at least 1, not {value}")


def _show_progress(done: int, wanted: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {wanted} games", end="\n" if done == wanted else "", file=sys.stderr)


def log(text: str) -> None:
    """Print a line on stderr."""
    with suppress(OSError):  # nobody reads stderr any more
        print(f"ppo37: {text}", file=sys.stderr)


def _print_result(options: Namespace, document: dict[str, Any], text: str) -> None:
    """Print `document` with --json, otherwise `text`."""
    print(json.dumps(document) if options.json else text)
