"""The commands that train or compare many runs; see `commands.py` for the others."""

import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from ..config import Config, implied_by
from ..errors import UsageError
from ..session.files import real_path, shown
from .brought import absolute, brought
from .common import config_from, config_of, log, options_around, print_result, settings_of

if TYPE_CHECKING:
    from ..suites.plan import MakeConfig, Plan


def train_seeds(options: Namespace) -> int:
    """Train the same settings with several seeds, as a suite of one game."""
    from ..suites.plan import make_plan

    if options.budget is not None and "total_timesteps" in options:
        raise UsageError("--budget and --total-timesteps exclude each other; use one of them")
    names = "seeds", "budget", "until"
    values = {"games": ["own"], **{name: getattr(options, name) for name in names}}

    def make_config(_: str | None, __: str | None, changes: dict[str, Any]) -> Config:
        return config_of(Namespace(**{**vars(options), **changes}))

    return _run_suite(options, make_plan(values, make_config))


def suite(options: Namespace) -> int:
    """Train several games, seeds and variants of settings, side by side."""
    return _run_suite(options, _plan_of(options))


def search(options: Namespace) -> int:
    """Find the settings that reach a score first: in each round the slower half is dropped."""
    from ..suites.search import checked_rounds, search
    from ..suites.search_results import PAGE

    rounds = None
    if options.rounds is not None:
        if not re.fullmatch(r"\d{1,5}(,\d{1,5})*", options.rounds):
            raise UsageError(f"--rounds takes numbers such as 5,8,12, not {options.rounds[:80]!r}")
        rounds = [int(number) for number in options.rounds.split(",")]
    plan = _plan_of(options)
    with _naming(options.plan if options.until is None else None):
        rounds = checked_rounds(plan, rounds)
    path, result = search(
        plan,
        rounds,
        options.out,
        options.jobs,
        log,
        lambda config: brought(config, options),
        options.rank,
    )
    print_result(options, {"path": str(path), **result}, (path / PAGE).read_text().rstrip())
    return 0


def _plan_of(options: Namespace) -> "Plan":
    """Return the plan of PLAN.toml and the options that replace its values."""
    from ..suites.plan import make_plan, read_plan

    values = {} if options.plan is None else read_plan(options.plan)
    names = "games", "seeds", "preset", "budget", "until"
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    values |= given
    typed = settings_of(options)
    file = None if given or typed else options.plan
    if "env" in typed:
        if options.games is not None:
            raise UsageError("--games and --env exclude each other; use one of them")
        values.pop("games", None)
    if options.preset is not None:
        values["settings"] = {n: v for n, v in values.get("settings", {}).items() if n != "preset"}
    if not values.get("games") and "env" not in {**values.get("settings", {}), **typed}:
        what = (
            "give PLAN.toml, or --games" if options.plan is None else f"{options.plan}: give games"
        )
        raise UsageError(f"{what} such as pong,breakout or atari5")
    values["seed"] = typed.pop("seed", Config.seed)
    values["settings"] = {**values.get("settings", {}), **typed}
    with _naming(file):
        return make_plan(values, _maker(options))


@contextmanager
def _naming(file: str | None) -> Iterator[None]:
    """Name the plan's file in errors; None if the options may be wrong instead."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error) if file is None else f"{file}: {error}") from error


def _maker(options: Namespace) -> "MakeConfig":
    """Return the function that makes the settings of an arm of a plan."""
    note = cache(log)  # each line once, not once for each arm

    def make_config(preset: str | None, game: str | None, changes: dict[str, Any]) -> Config:
        return config_from(preset or "auto", game, implied_by(changes), options, note)

    return make_config


def _run_suite(options: Namespace, plan: "Plan") -> int:
    """Train a plan, and print the results."""
    from ..session.checkpoint import KEPT
    from ..suites.suite import suite
    from ..suites.suite_results import PAGE

    if options.ray is not None and options.jobs is not None:
        raise UsageError("--jobs is for this machine; a Ray cluster has its own number of cores")
    if options.max_time is not None:
        raise UsageError("--max-time is for one run; for several use --budget")
    options_around(options)  # checks them
    first, origin = _first_weights(options)
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
        keep=options.keep or KEPT,
        origin=origin,
    )
    text = f"part {options.part} of {shown(path)} has finished"
    if options.part is None:
        text = (path / PAGE).read_text().rstrip()
    print_result(options, {"path": str(path), **result}, text)
    return 0


def _part(text: str) -> tuple[int, int]:
    """Convert K/N to two numbers."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UsageError(f"--part takes K/N, with K from 0 to N - 1, not {text[:80]!r}")
    return int(found[1]), int(found[2])


def _more(options: Namespace) -> list[str]:
    """Return the options that each run gets and that do not change its result."""
    names = ("checkpoint_every", "keep", "eval_every", "eval_episodes", "record_every")
    given = {name: getattr(options, name) for name in names}
    found = [f"--{n.replace('_', '-')}={v}" for n, v in given.items() if v is not None]
    found += [f"--logger={absolute(text)}" for text in options.loggers]
    return found + ["--keep-best"] * options.keep_best


def _first_weights(options: Namespace) -> tuple[list[str], dict[str, str]]:
    """Return the option that gives each run its first weights, and what they are."""
    from ..session.checkpoint import fingerprint
    from ..session.directory import find_checkpoint

    if getattr(options, "init_from", None) is None:
        return [], {}
    path = real_path(options.init_from)
    agent, _ = find_checkpoint(path)
    return [f"--init-from={path}"], {"init_from": fingerprint(agent)}


def ablate(options: Namespace) -> int:
    """Train with and without each detail of PPO, and compare."""
    from ..suites.ablate import ablate
    from ..suites.ablation_results import PICTURE, table

    config = config_of(options)
    details = None if options.details is None else options.details.split(",")
    own = brought(config, options)
    path, result = ablate(config, details, options.seeds, options.out, options.jobs, log, own)
    text = f"{table(result)}\n{shown(path / PICTURE)}"
    print_result(options, {"path": str(path), **result}, text)
    return 0


def compare(options: Namespace) -> int:
    """Compare suites, runs and published scores: aggregates with intervals, and pictures."""
    from ..suites.compare import compare, table

    folder, result = compare(options.inputs, options.anchors, options.out, log)
    print_result(options, {"path": str(folder), **result}, f"{table(result)}\n\n{shown(folder)}")
    return 0


def regress(options: Namespace) -> int:
    """Tell whether a change of the code changes what is computed, or what is learned."""
    from importlib.resources import as_file, files

    from ..suites import regress
    from ..suites.plan import make_plan, read_plan

    if options.golden:
        result = regress.check_numbers(options.base, options.head, log, options.jobs)
        text = "identical" if result["identical"] else "NOT identical"
        print_result(options, result, f"{text}: {result['base']} and {result['head']}")
        return 0 if result["identical"] else 1

    plan = None
    if not regress.are_suites(options.base, options.head):
        with as_file(files("ppo37") / "data" / "regress.toml") as own:
            values = read_plan(options.plan or own)
        if options.seeds is not None:
            values["seeds"] = options.seeds
        with _naming(None if options.seeds else options.plan):
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
    print_result(options, {"path": str(path), **result}, f"{text}\n\n{_verdict(result)}")
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
