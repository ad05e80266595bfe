"""The parser of the command line: the commands and their options."""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .. import __version__, networks
from ..config import (
    OTHER_NAMES,
    RENAMED,
    Config,
    choices,
    field_type,
    item_type,
    option_of,
    schedules,
)
from ..errors import UsageError
from ..presets import PRESET_NAMES
from ..session.changes import FIXED
from . import brought, commands, course, several_runs

_EXAMPLES = """examples:
  ppo37 train pong                       learn Pong with the preset for this machine
  ppo37 train breakout --preset classic  the reference algorithm, 10 million steps
  ppo37 check-env own.py:MyEnv           find what is wrong with your own environment
  ppo37 resume RUN                       continue a stopped run, with the same result to the bit
  ppo37 config RUN > mine.toml           its settings, for `ppo37 train --config mine.toml`
  ppo37 verify-resume pong               check that on this machine
  ppo37 eval RUN                         30 whole games with the trained agent
  ppo37 record RUN                       a video of one game
  ppo37 plot RUN [RUN ...]               learning curves
  ppo37 ablate pong --details 4,7        measure what annealing and normalized advantages add
  ppo37 compare OLD NEW                  is the new suite better, by how much, and how sure is it
  ppo37 details 5                        a detail of PPO, explained beside its code
  ppo37 learn                            the course: lessons and exercises

RUN is a run directory or a checkpoint in it; for eval, record, export and fingerprint also a
published agent such as agents/pong."""


A_RUN = "run directory, or a checkpoint in it"
AN_AGENT = "run directory, a checkpoint in it, a published agent, or the name of a trained one"


class _Parser(argparse.ArgumentParser):
    """A parser of argparse that raises UsageError, and does not hide failures to print."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse would hide that this failed

    def option_names(self) -> list[str]:
        """Return the options that the help shows."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [name for action in shown for name in action.option_strings]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; `command` in the result is the function to call with it.

    UsageError for wrong arguments; SystemExit after the help or the version was printed.
    """
    parser = build_parser()
    options, unknown = parser.parse_known_args([_with_dashes(argument) for argument in arguments])
    if "what" in options and not any(argument.startswith("-") for argument in unknown):
        options.what += unknown  # words after an option
        unknown = []
    if unknown:
        hint = _hint(unknown[0], getattr(options, "parser", parser))
        raise UsageError(f"unknown argument {unknown[0]!r}{hint}")
    if "command" not in options:
        parser.print_help(sys.stderr)
        parser.exit(2)
    return options


def build_parser() -> _Parser:
    """Return the parser of all commands; their help is the docstring of their function."""
    parser = _Parser(
        prog="ppo37",
        description="Proximal Policy Optimization from scratch, for Atari.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ppo37 {__version__}")
    group = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, function: Callable[[argparse.Namespace], int]) -> _Parser:
        doc = (function.__doc__ or "").partition(".")[0]
        text = doc[:1].lower() + doc[1:]
        command = group.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(command=function, parser=command)
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        return command

    train = add("train", commands.train)
    _add_game(train)
    train.add_argument("--out", metavar="DIR", help="run directory to create")
    train.add_argument(
        "--init-from", metavar="AGENT", help="RUN or published agent whose weights to begin with"
    )
    train.add_argument(
        "--budget",
        metavar="TIME",
        help="train for as many steps as fit in 90s, 30m or 1h30m, instead of --total-timesteps",
    )
    _add_seeds(train, "train several seeds", None)
    _add_jobs(train, "default: what is fastest for all")
    train.set_defaults(ray=None, part=None, prepare=False)
    _add_run_options(train)
    _add_settings(train)

    suite = add("suite", several_runs.suite)
    text = "pong,breakout,... or a set: atari5, classic7, atari26, atari57"
    _add_plan(suite, text, "seeds of each game and variant", "; default 3")
    text = "time of each run, 90s, 30m or 1h30m: as many steps as fit, the same for all seeds"
    suite.add_argument("--budget", metavar="TIME", help=text)
    suite.add_argument("--out", metavar="DIR", help="directory of the suite, new or to resume")
    _add_jobs(suite, "default: what is fastest for all")
    text = "train on a Ray cluster, host:port or auto; all its nodes need DIR (ppo37[ray])"
    suite.add_argument("--ray", metavar="ADDRESS", help=text)
    text = "write DIR with all choices, and train nothing: for --part"
    suite.add_argument("--prepare", action="store_true", help=text)
    text = "train the K-th of N parts of a prepared suite, beside other parts; K from 0 to N - 1"
    suite.add_argument("--part", metavar="K/N", help=text)
    _add_run_options(suite)
    _add_settings(suite)

    search = add("search", several_runs.search)
    _add_plan(search, "the game", "seeds of all rounds", "")
    search.set_defaults(budget=None)
    search.add_argument("--until", type=float, metavar="SCORE", help="the score to reach")
    text = "seeds of a candidate after each round, as 5,8,12, which is the default for 12 seeds"
    search.add_argument("--rounds", metavar="N,N", help=text)
    text = "the work that candidates are ranked by; default cpu_s"
    search.add_argument("--rank", choices=("cpu_s", "agent_steps"), default="cpu_s", help=text)
    search.add_argument("--out", metavar="DIR", help="directory of the search, new or to resume")
    _add_jobs(search, "default: what is fastest for all")
    _add_json(search)
    _add_settings(search)

    resume = add("resume", commands.resume)
    resume.add_argument("run", metavar="RUN", help=A_RUN)
    resume.add_argument(
        "--new-games", action="store_true", help="start new games instead of restoring the old ones"
    )
    _add_run_options(resume)
    _add_settings(resume, without=FIXED, text="to change from here on")
    _add_brought(resume)

    evaluate = add("eval", commands.evaluate)
    evaluate.add_argument("run", metavar="RUN", help=AN_AGENT)
    evaluate.add_argument(
        "--episodes", type=whole_number, default=30, metavar="N", help="default 30"
    )
    _add_playing_options(evaluate)
    _add_json(evaluate)

    record = add("record", commands.record)
    record.add_argument("run", metavar="RUN", help=AN_AGENT)
    record.add_argument("--out", metavar="FILE", help="FILE.mp4 or FILE.gif")
    record.add_argument(
        "--games", type=whole_number, default=1, metavar="N", help="whole games; default 1"
    )
    record.add_argument("--max-seconds", type=float, metavar="S", help="longest length of a video")
    _add_playing_options(record)

    plot = add("plot", commands.plot)
    plot.add_argument("runs", metavar="RUN", nargs="+", help="run directories")
    plot.add_argument("--out", metavar="FILE.png", help="image to write")
    plot.add_argument("--group", action="store_true", help="average the seeds of equal settings")

    check = add("check-env", commands.check_env)
    text = "module:Class, module:function or file.py:Class, or the id of a Gymnasium environment"
    check.add_argument("env", metavar="ENV", help=text)
    text = "steps that three environments are played; default 1000"
    check.add_argument("--steps", type=whole_number, default=1000, metavar="N", help=text)
    _add_json(check)
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for name in ("env_kwargs", "imports", "wrappers", "channels"):
        _add_setting(check, fields[name], name, fields[name].metadata["help"].replace("%", "%%"))

    config = add("config", commands.config)
    config.add_argument("game", metavar="RUN|GAME", nargs="?", help="a run, or a game as for train")
    _add_sources(config, AUTO)
    _add_settings(config)

    explain = add("explain", commands.explain)
    explain.add_argument("run", metavar="RUN", help=A_RUN)
    explain.add_argument("--out", metavar="FILE.png", help="picture; default: in the run")
    _add_brought(explain)
    _add_json(explain)

    export = add("export", commands.export)
    export.add_argument("run", metavar="RUN", help=AN_AGENT)
    export.add_argument("--out", metavar="DIR", required=True, help="new folder for the agent")
    text = "store the weights in half precision: half the size, and rounded to three digits"
    export.add_argument("--half", action="store_true", help=text)

    fingerprint = add("fingerprint", commands.fingerprint)
    fingerprint.add_argument("run", metavar="RUN", help=AN_AGENT)
    _add_json(fingerprint)

    verify = add("verify-resume", commands.verify_resume)
    _add_game(verify)
    text = "updates before and after the checkpoint; default 8"
    verify.add_argument("--updates", type=whole_number, default=8, metavar="N", help=text)
    _add_json(verify)
    _add_settings(verify, without=("total_timesteps", "reseed_interval"))

    ablate = add("ablate", several_runs.ablate)
    _add_game(ablate)
    text = "numbers of details, as 4,7 (default: all of the 37 that have a switch and are on)"
    ablate.add_argument("--details", metavar="N,N", help=text)
    _add_seeds(ablate, "seeds of each arm", "3")
    _add_jobs(ablate, "default 1", 1)
    ablate.add_argument("--out", metavar="DIR", help="directory of the study, new or to resume")
    _add_json(ablate)
    _add_settings(ablate)

    compare = add("compare", several_runs.compare)
    text = (
        "directory of a suite, run directory, or published column such as cleanrl_ppo_atari; the "
        "others are compared with the first; LABEL=PATH gives a name, and runs with the same LABEL "
        "are one entry"
    )
    compare.add_argument("inputs", metavar="A", nargs="+", help=text)
    text = (
        "file with [ENV] low = 20, high = 500: scores that count as 0 and 1 where there are no "
        "human ones"
    )
    compare.add_argument("--anchors", metavar="FILE.toml", help=text)
    text = "folder for compare.json, table.md and pictures; default: a new one, compare"
    compare.add_argument("--out", metavar="DIR", help=text)
    _add_json(compare)

    regress = add("regress", several_runs.regress)
    text = "a commit of this checkout, or the directory of a suite"
    regress.add_argument("base", metavar="BASE", help=text)
    regress.add_argument("head", metavar="HEAD", help=f"{text}; . is the working tree")
    text = "only check that 20 updates of each preset compute the same weights, to the last bit"
    regress.add_argument("--golden", action="store_true", help=text)
    text = "what to train instead of three small environments, see `ppo37 suite`"
    regress.add_argument("--plan", metavar="PLAN.toml", help=text)
    _add_seeds(regress, "seeds of each commit", None, "; default 8")
    text = "the largest difference that does not matter, in normalized scores; default 0.1"
    regress.add_argument("--margin", type=float, default=0.1, metavar="M", help=text)
    regress.add_argument("--anchors", metavar="FILE.toml", help="as for `ppo37 compare`")
    regress.add_argument("--out", metavar="DIR", help="directory, new or to resume")
    _add_jobs(regress, "default: one for each core")
    _add_json(regress)
    _add_allow(regress)

    bench = add("bench", commands.bench)
    bench.add_argument("--game", metavar="GAME", help="default: breakout")
    _add_sources(bench, "classic")
    bench.add_argument("--seconds", type=float, default=30.0, metavar="S", help="about this long")
    bench.add_argument(
        "--peers",
        type=whole_number,
        metavar="ROUNDS",
        help="compare with Stable-Baselines3 instead, in so many rounds of about two minutes each "
        "(needs ppo37[bench])",
    )
    _add_json(bench)
    _add_settings(bench, without=("reseed_interval",))

    details = add("details", commands.details)
    details.add_argument("number", metavar="N", nargs="?", help="1 to 37, or A1 to A4")
    text = "remove it from a copy of the package, and train with that or run a test that fails"
    details.add_argument("--break", dest="broken", action="store_true", help=text)
    _add_json(details)
    learn = add("learn", course.learn)
    text = (
        "a lesson to read, or an exercise whose file to write; `check FILE` examines a file, and "
        "`bug N [FUNCTION]` shows a run with a hidden mistake"
    )
    learn.add_argument("what", metavar="NAME", nargs="*", help=text)
    text = "train with the function, too; default: if it is right"
    learn.add_argument("--train", action=argparse.BooleanOptionalAction, help=text)
    text = "where to write the file of an exercise, or a notebook as FILE.ipynb"
    learn.add_argument("--out", metavar="FILE", help=text)
    text = (
        "open a notebook with sliders: entropy, gae, clip, update, pixels, metrics (ppo37[learn])"
    )
    learn.add_argument("--notebook", metavar="NAME", help=text)
    _add_json(learn)

    _add_json(add("games", commands.games))
    _add_json(add("agents", commands.agents))
    doctor = add("doctor", commands.doctor)
    doctor.add_argument(
        "--measure",
        action="store_true",
        help="instead measure each precision with each kind of kernels, and report whether auto "
        "chooses the fastest (on an idle machine)",
    )
    _add_json(doctor)
    return parser


def _hint(argument: str, parser: _Parser) -> str:
    """Return a hint what an unknown argument may mean, or where to look."""
    name = argument.split("=")[0]
    # Compared without the dashes, which all of them have.
    names = {option.lstrip("-"): option for option in parser.option_names()}
    renamed = {old.replace("_", "-"): new.replace("_", "-") for old, new in RENAMED.items()}
    names |= {old: names[new] for old, new in renamed.items() if new in names}
    settings = {field.name.replace("_", "-") for field in dataclasses.fields(Config)} | {*renamed}
    written = name.lstrip("-")
    is_setting = written.removeprefix("no-") in settings
    if is_setting and parser.prog.endswith(("resume", "eval", "record")):
        return f": a setting is fixed when `ppo37 train` starts a run (see `{parser.prog} --help`)"
    other = OTHER_NAMES.get(written.replace("-", "_"), "").replace("_", "-")
    near = [other] if other in names else difflib.get_close_matches(written, names, n=1)
    if near and argument.startswith("-"):
        return f"; did you mean {names[near[0]]}?"
    return f" (see `{parser.prog} --help`)"


def _with_dashes(argument: str) -> str:
    """Replace the underscores in the name of an option: `--total_timesteps=5`."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _add_game(parser: argparse.ArgumentParser) -> None:
    text = "pong, Pong, ALE/Pong-v5, ...; catch; or a Gymnasium id such as CartPole-v1"
    parser.add_argument("game", metavar="GAME", nargs="?", help=text)
    _add_sources(parser, AUTO)


AUTO = (
    "auto, which is fast for images, classic_control for vectors with choices as actions, mujoco "
    "for vectors with real numbers"
)


def _add_sources(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options for the source of all settings that are not given as options."""
    text = f"preset to start from; default: {default}"
    parser.add_argument("--preset", choices=PRESET_NAMES, help=text)
    text = "file with settings, which options replace; see `ppo37 config`"
    parser.add_argument("--config", metavar="FILE.toml", help=text)


def _add_plan(parser: argparse.ArgumentParser, games: str, seeds: str, more: str) -> None:
    """Add PLAN.toml and the options that replace its values."""
    parser.add_argument("plan", metavar="PLAN.toml", nargs="?", help="games, seeds and settings")
    parser.add_argument("--games", metavar="GAME,GAME", help=games)
    _add_seeds(parser, seeds, None, more)
    parser.add_argument("--preset", choices=PRESET_NAMES, help=f"default: {AUTO}")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "around the run", "these never change its result; STEPS are agent steps"
    )
    for name, metavar, text in (
        ("checkpoint-every", "UPDATES", "updates between checkpoints (default: two minutes)"),
        ("keep", "N", "checkpoints that are kept, the newest; default 3"),
        ("eval-every", "STEPS", "evaluate whole games every so many steps, and at the end"),
        ("eval-episodes", "N", "games of each of these evaluations; default 10"),
        ("record-every", "STEPS", "record a video into RUN/videos every so many steps"),
        ("max-time", "TIME", "stop after 90s, 30m or 1h30m, with a checkpoint"),
        ("until", "SCORE", "stop when the mean of the last 20 training games is this high"),
    ):
        kind = {"TIME": str, "SCORE": float}.get(metavar, whole_number)
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)
    text = "keep the best agent by --eval-every in RUN/best, and report its score in other games"
    group.add_argument("--keep-best", action="store_true", help=text)
    text = (
        "add a logger or another callback, module:Class or file.py:Class of a ppo37.Observer; "
        "repeat it for several"
    )
    group.add_argument(
        "--logger", dest="loggers", action="append", default=[], metavar="MODULE:NAME", help=text
    )
    _add_json(parser)


def _add_seeds(
    parser: argparse.ArgumentParser, what: str, default: str | None, more: str = ""
) -> None:
    shown = more if default is None else f"; default {default}"
    text = f"{what}: a number, counted from --seed, or the seeds, as 1-5 or 1,4,7{shown}"
    parser.add_argument("--seeds", default=default, metavar="SEEDS", help=text)


def _add_jobs(parser: argparse.ArgumentParser, text: str, default: int | None = None) -> None:
    text = f"runs at the same time, which share the cores; {text}"
    parser.add_argument("--jobs", type=whole_number, default=default, metavar="N", help=text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _add_playing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", choices=choices("protocol"), help="default: as trained")
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="of the games and actions; default 0"
    )
    _add_brought(parser)
    text = "take the most likely actions instead of sampling as in training"
    parser.add_argument("--greedy", action="store_true", help=text)
    parser.add_argument("--device", type=_device, default="auto", choices=choices("device"))


AGAIN = {
    "env": "the environment: file.py:Class, module:Class or module:function",
    "imports": "the module that registers the environment: module or module:function",
    "wrappers": "a wrapper of the environment, with its arguments; repeat it for several",
    "network": "the network: file.py:Class or module:Class",
}
"""Help texts of the options in `brought.OPTIONS` where they repeat those of `ppo37 train`."""
OF_PRESETS = "in brackets the value in the preset classic; other presets change some of them"


def _add_brought(parser: argparse.ArgumentParser) -> None:
    """Add the options that repeat the names of what a run imports."""
    text = "repeat those that `ppo37 train` was given: a file of a run never imports a module"
    group = parser.add_argument_group("your own parts", text)
    for name in brought.OPTIONS:
        field = next(field for field in dataclasses.fields(Config) if field.name == name)
        _add_setting(group, field, name, AGAIN[name])
    _add_allow(group)


def _add_allow(group: Any) -> None:
    text = (
        "permit the import of module:Class or file.py:Class, which FILE.toml or the run names; "
        "another option that names the same, such as --env, permits it as well"
    )
    group.add_argument("--allow", metavar="MODULE:NAME", action="append", help=text)


def _add_settings(
    parser: argparse.ArgumentParser, without: tuple[str, ...] = (), text: str = OF_PRESETS
) -> None:
    """Add an option for each setting of `Config`; only those that are given are in the result."""
    group = parser.add_argument_group("settings", text)
    for field in dataclasses.fields(Config):
        if field.name in ("game", "preset", *without):
            continue
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        more = f" [{shown}]" if text is OF_PRESETS else ""
        if field.name == "network":
            more += f"; built in are {', '.join(networks.names())}"
        _add_setting(group, field, field.name, f"{field.metadata['help']}{more}".replace("%", "%%"))
        for old in [old for old, new in RENAMED.items() if new == field.name]:
            _add_setting(group, field, old, argparse.SUPPRESS)
    if "env" not in without:
        _add_allow(group)


def _add_setting(group: Any, field: "dataclasses.Field[Any]", name: str, text: str) -> None:
    """Add the option `--name` for a setting."""
    kind, optional = field_type(field)
    more: dict[str, Any]
    if kind is bool:
        more = {"action": argparse.BooleanOptionalAction}
    elif item_type(field.name) is str:
        more = {"action": "append", "metavar": "MODULE:NAME"}
    elif item_type(field.name) is int:
        more = {"type": _integers, "metavar": "N,N"}
    else:
        convert = _device if field.name == "device" else _converter(field.name, kind, optional)
        more = {"type": convert, "choices": choices(field.name) or None}
        more["metavar"] = None if kind is str else kind.__name__.upper()
        if field.name in schedules():
            more["metavar"] = "FLOAT[:END]"
    flag = option_of(name) if name == field.name else "--" + name.replace("_", "-")
    hidden = argparse.SUPPRESS
    group.add_argument(flag, dest=field.name, default=hidden, help=text, **more)


def _integers(text: str) -> tuple[int, ...]:
    """Convert 256,256 to a tuple."""
    return tuple(int(part) for part in text.split(",")) if text else ()


_integers.__name__ = "list of whole numbers"  # in the message of argparse


def _device(text: str) -> str:
    if text == "mps":
        raise argparse.ArgumentTypeError("mps is not supported; on a Mac use --device cpu")
    return text


def _converter(name: str, kind: type, optional: bool) -> Callable[[str], Any]:
    """Return the function that converts the text of a setting; its errors name the option."""

    def convert(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        if name in schedules() and ":" in text:
            return text  # checked by Config
        if kind is int:
            return whole_number(text)
        return kind(text)

    convert.__name__ = kind.__name__
    return convert


def whole_number(text: str) -> int:
    """Convert 1000000, 1_000_000 or 1e6; ArgumentTypeError for other texts."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError, OverflowError):
        if float(text).is_integer():
            return int(float(text))
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
