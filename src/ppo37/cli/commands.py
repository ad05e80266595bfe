"""The commands for one run, agent or machine: a function for each, which returns the exit code.

The commands for many runs are in `several_runs.py`. Modules are imported when they are used, so
that `ppo37 --help` is fast and needs no PyTorch.
"""

import dataclasses
import json
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config, brought_flags, from_dict, implied_by
from ..errors import RunError, UsageError
from ..session.changes import FIXED
from ..session.files import real_path, shown
from .brought import brought, environments, with_real_paths
from .common import config_of, log, options_around, print_result, require_positive, settings_of
from .several_runs import train_seeds

if TYPE_CHECKING:
    from ..build import Brought
    from ..session.checkpoint import Checkpoint
    from ..session.session import Summary
    from ..tools.details import Detail

SIGNAL_EXIT = 128
"""The exit code of a stopped run is this plus the number of the signal."""


def train(options: Namespace) -> int:
    """Train an agent on a game."""
    started = time.monotonic()
    from ..loop import train

    if options.seeds is not None:
        return train_seeds(options)
    if options.jobs is not None:
        raise UsageError("--jobs is for several seeds; add --seeds")
    if options.budget is not None and options.max_time is not None:
        raise UsageError("--budget and --max-time exclude each other; use one of them")
    around = options_around(options)
    config = config_of(options) if options.budget is None else _within_budget(options, started)
    around |= brought(config, options).arguments
    origin = options.init_from
    return _report(lambda: train(config, options.out, init_from=origin, **around), options.json)


def _within_budget(options: Namespace, started: float) -> Config:
    """Return the configuration that fits in --budget, counted from `started` (monotonic, in s).

    A job that torchrun has restarted keeps its first configuration.
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

    around = options_around(options) | _brought_by_run(options).arguments
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
    if result.protocol is not None:  # else it is the user's own, of any name
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
    if result.protocol == "machado" and "slm_lab_ppo" in published:
        lines.append(
            "  (slm_lab_ppo has sticky actions, too, but the game's own actions, and the best of "
            "three lambdas)"
        )
    if result.greedy and published:
        lines.append("  (published scores are those of sampled actions)")
    document = {**result.to_json(), "human_normalised": normalized, "published": published}
    print_result(options, document, "\n".join(lines))
    return 0


def record(options: Namespace) -> int:
    """Make a video of an agent that plays whole games."""
    from ..tools.record import record

    require_positive("games", options.games)
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


def explain(options: Namespace) -> int:
    """Show one real update of a run in numbers: samples, ratios, clipping, gradients."""
    from ..session import directory
    from ..session.files import own_folder
    from ..tools.explain import explain, text
    from ..tools.explain_plot import figure
    from ..tools.figures import save_png

    if options.out is not None and Path(options.out).suffix.lower() != ".png":
        raise UsageError(f"cannot draw to {options.out}: the name must end in .png")
    if options.out is not None and not real_path(options.out).parent.is_dir():
        raise UsageError(f"cannot draw to {options.out}: its folder does not exist")
    found = explain(options.run, _brought_by_run(options))
    print_result(options, found.to_json(), text(found))
    default = own_folder(directory.run_of(options.run), "plots") / "explain.png"
    path = default if options.out is None else real_path(options.out)
    save_png(figure(found), path, make_folder=options.out is None)
    log(f"picture: {shown(path)}")
    return 0


def export(options: Namespace) -> int:
    """Publish the agent of a run as a small directory."""
    from ..session.checkpoint import export

    print(shown(export(_checkpoint(options.run), Path(options.out), options.half)))
    return 0


def fingerprint(options: Namespace) -> int:
    """Print a hash of everything that determines how a run continues."""
    from ..session.checkpoint import fingerprint

    saved = _checkpoint(options.run)
    found = fingerprint(saved)
    print_result(options, {"checkpoint": str(saved.path), "fingerprint": found}, found)
    return 0


def verify_resume(options: Namespace) -> int:
    """Kill a run, resume it and compare it with one that was not killed."""
    from ..tools.verify import verify_resume

    require_positive("updates", options.updates)
    verdict = verify_resume(config_of(options), options.updates, log)
    same, logs = (
        "identical" if equal else "NOT identical" for equal in (verdict.identical, verdict.same_log)
    )
    text = (
        f"never killed          {verdict.unbroken}\nkilled and resumed    {verdict.resumed}\n"
        f"{same} after {verdict.updates} updates; the logs are {logs}, without the clocks"
    )
    print_result(options, verdict.to_json(), text)
    return 0 if verdict.identical else 1


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
    print_result(options, result, text)
    return 0


def details(options: Namespace) -> int:
    """List the details of PPO, or explain one beside its code."""
    from ..tools import details

    if options.broken:
        if options.number is None:
            raise UsageError("name the detail to remove: ppo37 details 5 --break")
        return _without_detail(options, details.find(options.number))
    marks = details.marks()
    if options.number is None:
        found = details.load()
        documents = [details.document(detail, marks) for detail in found]
        print_result(options, {"details": documents}, details.table(found, marks))
    else:
        detail = details.find(options.number)
        text = details.explanation(detail, marks)
        print_result(options, details.document(detail, marks), text)
    return 0


def _without_detail(options: Namespace, detail: "Detail") -> int:
    """Show what goes wrong without a detail: by a small training, or by a test that fails."""
    from ..course.broken import run_test_without, train_without
    from ..course.trial import chart
    from ..tools.details import diff

    lines = [f"{detail.tag}, {detail.name}. {detail.without}", "", diff(detail).rstrip(), ""]
    document: dict[str, object] = {"tag": detail.tag}
    if detail.task is not None:
        log(f"training {detail.task} without it, in a copy of the package, and with it")
        trial = train_without(detail)
        lines += [
            chart(trial, "without it", "with it"),
            f"mean score of the last 100 games: {trial.theirs[-1]:.1f} without it, "
            f"{trial.ours[-1]:.1f} with it. One seed: not measured over seeds.",
        ]
        document |= {"task": detail.task, "without": trial.theirs, "with": trial.ours}
    else:
        log(f"running {detail.tests[0]} without it, in a copy of the package")
        failure = run_test_without(detail)
        if not failure.lines:
            raise RunError(f"{failure.test} passes without {detail.tag}; please report this")
        lines += [f"{failure.test} fails:", *failure.lines[:8]]
        document |= {"test": failure.test, "says": failure.lines}
    print_result(options, document, "\n".join(lines))
    return 0


def games(options: Namespace) -> int:
    """List the games with their published scores."""
    from ..config import CATCH
    from ..envs.games import atari_games, score_key
    from ..tools.stats import published_scores

    # All columns, also those of other protocols.
    known = {g: published_scores().get(score_key(g), {}) for g in (CATCH, *atari_games())}
    heads = ("random", "human", "PPO paper", "CleanRL/baselines PPO", "SLM-Lab PPO (sticky)")
    lines = [f"{'game':24}" + "".join(f"  {head:>12}" for head in heads)]
    for game, scores in known.items():
        best = scores.get("cleanrl_ppo_atari", scores.get("baselines_ppo2"))
        names = ("random", "human", "ppo_paper")
        columns = (*map(scores.get, names), best, scores.get("slm_lab_ppo"))
        cells = ["-" if value is None else f"{value:,.1f}" for value in columns]
        wide = zip(cells, heads, strict=True)
        lines.append(
            f"{game:24}" + "".join(f"  {cell:>{max(12, len(head))}}" for cell, head in wide)
        )
    document = {"games": [{"name": game, **scores} for game, scores in known.items()]}
    print_result(options, document, "\n".join(lines))
    return 0


def agents(options: Namespace) -> int:
    """List the trained agents of this checkout with their scores, beside published ones."""
    from ..suites.compare_table import markdown_table
    from ..tools.agents import list_agents
    from ..tools.stats import reference

    found = list_agents()
    head = ["agent", "game", "protocol", "network", "agent steps", "score (95% interval)"]
    rows, documents = [], []
    for agent in found:
        known = reference(agent.game, agent.protocol)
        interval = "" if agent.interval is None else " ({:.1f} to {:.1f})".format(*agent.interval)
        score = "not evaluated" if agent.score is None else f"{agent.score:,.1f}{interval}"
        published = known.get("cleanrl_ppo_atari", known.get("ppo_paper", known.get("slm_lab_ppo")))
        beside = [known.get("random"), known.get("human"), published]
        steps = f"{agent.agent_steps:,}"
        rows.append(
            [agent.name, agent.game, agent.protocol, agent.network, steps, score]
            + ["" if value is None else f"{value:,.1f}" for value in beside]
        )
        documents.append({**agent._asdict(), "published": known})
    table = markdown_table([*head, "random", "human", "published PPO"], rows)
    print_result(options, {"agents": documents}, table)
    return 0


def doctor(options: Namespace) -> int:
    """Check that everything needed is installed and works."""
    from ..tools.doctor import doctor, measure, speeds_table, table

    if options.measure:
        speeds = measure()
        print_result(options, {"speeds": speeds}, speeds_table(speeds))
        return 0
    checks = doctor()
    healthy = all(check.ok for check in checks)
    document = {"ok": healthy, "checks": [check._asdict() for check in checks]}
    print_result(options, document, table(checks))
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
    print_result(options, document, table(checks))
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


def _brought_by_run(options: Namespace) -> "Brought":
    """Return the user's own classes that RUN names; see `brought`."""
    from ..session.directory import read_config_of

    return brought(read_config_of(options.run), options)


def _checkpoint(run: str | Path) -> "Checkpoint":
    """Return the checkpoint that RUN names, and print its warnings."""
    from ..session.directory import find_checkpoint

    saved, warnings = find_checkpoint(run)
    for warning in warnings:
        log(warning)
    return saved


def _show_progress(done: int, wanted: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {wanted} games", end="\n" if done == wanted else "", file=sys.stderr)
