"""The command line: `ppo37 train pong` and its sisters.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 wrong usage or input,
1 failure, 130 interrupted (143 terminated) with a valid checkpoint left behind.
"""

import argparse
import dataclasses
import difflib
import errno
import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

from .config import PRESET_NAMES, RENAMED, Config, choices, field_type, from_preset
from .errors import RunError, Stopped, UsageError, not_loaded
from .session.files import shown
from .tools.processes import stop_with_parent

SIGNALLED = 128
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_NOT_OPTIONS = ("game", "preset")
_EXAMPLES = """examples:
  ppo37 train pong                       learn Pong with the preset for this machine
  ppo37 train breakout --preset classic  the reference algorithm, 10 million steps
  ppo37 resume RUN                       go on where a run stopped, bit for bit
  ppo37 verify-resume pong               see for yourself that it does
  ppo37 eval RUN                         30 whole games with the trained agent
  ppo37 record RUN                       a video of one game
  ppo37 plot RUN [RUN ...]               learning curves
  ppo37 ablate pong --details 4,7        what are annealing and normalised advantages worth?
  ppo37 details 5                        a detail of PPO, explained beside its code

RUN is a run directory or a checkpoint in it; for eval, record, export and fingerprint also a
published agent such as agents/pong."""


def let_waiting_threads_sleep() -> None:
    """Let OpenMP's threads, which PyTorch computes with, wait for each other with less spinning.

    A thread that spins takes its core from whatever else the machine does. OpenMP reads these when
    PyTorch is loaded; what the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU, as in PyTorch for Linux
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; LLVM and Intel, as on macOS


class _Parser(argparse.ArgumentParser):
    """argparse, with one clear line for an error and the nearest option for an unknown one."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse would not tell that this failed

    def option_names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]


def open_streams() -> None:
    """Give stdin, stdout and stderr that were closed at the start to /dev/null.

    Else the next files to be opened would have their numbers, and get what is written to stderr.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            assert opened == number
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    open_streams()
    words = [_with_dashes(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    let_waiting_threads_sleep()
    debug = "--debug" in words
    if not debug:
        threading.excepthook = lambda _: None  # what matters of it reaches the main thread
    # To save and go on; where there is nothing to save yet or any more, to go on.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    before = {each: signal.getsignal(each) for each in STOPPING}
    for each in STOPPING:
        if before[each] is not signal.SIG_IGN:
            signal.signal(each, _interrupt)
    try:
        stop_with_parent()
        code = _run([word for word in words if word != "--debug"])
        sys.stdout.flush()  # here, where it is known what to do if that fails
    except UsageError as error:
        code = _fail(str(error), debug, 2)
    except KeyboardInterrupt as error:
        number = error.signal_number if isinstance(error, Stopped) else signal.SIGINT
        code = _fail("interrupted", debug, SIGNALLED + number)
    except BrokenPipeError:  # who reads the result has left
        _silence_stdout()
        code = 1
    except RunError as error:
        code = _fail(str(error), debug, 1)
    except ImportError as error:
        code = _fail(not_loaded(error), debug, 2)
    except Exception as error:
        what = f"{type(error).__name__}: {error} (--debug shows where)"
        code = 1
        if isinstance(error, PermissionError) and error.filename is not None:
            what, code = f"cannot use {error.filename}: {error.strerror}", 2
        if isinstance(error, OSError) and error.filename is None and error.errno in NO_ROOM:
            what = f"cannot write the result: {error.strerror}"
            _silence_stdout()
        code = _fail(what, debug, code)
    finally:
        for each in STOPPING:  # the command itself may end in peace
            signal.signal(each, _pass_over if arguments is None else before[each])
    sys.exit(code)


def _interrupt(number: int, _: Any) -> NoReturn:
    """End what does not look at signals itself. The same again, while it ends, means no more."""
    for each in STOPPING:
        signal.signal(each, _pass_over)
    raise Stopped(number)


def _pass_over(_: int, __: Any) -> None:
    """Do nothing: to ignore a signal that has come already makes Python fail."""


def _silence_stdout() -> None:
    """What cannot be written to it would be tried once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` in its result is the function to call."""
    parser = _Parser(
        prog="ppo37",
        description="Proximal Policy Optimization from scratch, for Atari.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(command=function, parser=command)
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        return command

    train = add("train", _train, "train an agent on a game")
    train.add_argument("game", metavar="GAME", help="pong, Pong, ALE/Pong-v5, ...; or catch")
    train.add_argument(
        "--preset", default="auto", choices=PRESET_NAMES, help="preset to start from (auto: fast)"
    )
    train.add_argument("--out", metavar="DIR", help="the run directory to make")
    train.add_argument(
        "--budget",
        metavar="TIME",
        help="instead of --total-timesteps: as many "
        "as fit in 90s, 30m or 1h30m, from now to the end",
    )
    _add_run_options(train)
    _add_settings(train)

    resume = add("resume", _resume, "resume a stopped run")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument(
        "--new-games", action="store_true", help="begin new games instead of replaying the old ones"
    )
    _add_run_options(resume)

    evaluate = add("eval", _eval, "play whole games with a trained agent and report its scores")
    evaluate.add_argument("run", metavar="RUN")
    evaluate.add_argument("--episodes", type=int, default=30, metavar="N", help="default 30")
    _add_playing_options(evaluate)
    _add_json(evaluate)

    record = add("record", _record, "film a trained agent playing one game")
    record.add_argument("run", metavar="RUN")
    record.add_argument("--out", metavar="FILE", help="FILE.mp4 or FILE.gif")
    record.add_argument("--max-seconds", type=float, metavar="S", help="stop the film after S s")
    _add_playing_options(record)

    plot = add("plot", _plot, "draw learning curves: return against frames and wall time")
    plot.add_argument("runs", metavar="RUN", nargs="+")
    plot.add_argument("--out", metavar="FILE.png")
    plot.add_argument("--group", action="store_true", help="average the seeds of equal settings")

    export = add("export", _export, "publish the agent of a run as a small folder")
    export.add_argument("run", metavar="RUN")
    export.add_argument("--out", metavar="DIR", required=True)

    fingerprint = add(
        "fingerprint", _fingerprint, "print a hash of all that decides how a run continues"
    )
    fingerprint.add_argument("run", metavar="RUN")
    _add_json(fingerprint)

    verify = add(
        "verify-resume",
        _verify_resume,
        "kill a run, resume it and compare it with one that was not killed",
    )
    verify.add_argument("game", metavar="GAME")
    verify.add_argument(
        "--preset", default="auto", choices=PRESET_NAMES, help="preset to start from (auto: fast)"
    )
    verify.add_argument(
        "--updates",
        type=int,
        default=8,
        metavar="N",
        help="updates before and after the checkpoint; default 8",
    )
    _add_json(verify)
    _add_settings(verify, without=("total_timesteps", "reseed_interval"))

    ablate = add("ablate", _ablate, "train with and without each detail of PPO, and compare")
    ablate.add_argument("game", metavar="GAME")
    ablate.add_argument(
        "--preset", default="auto", choices=PRESET_NAMES, help="preset to start from (auto: fast)"
    )
    ablate.add_argument(
        "--details",
        metavar="N,N",
        help="numbers of details, as 4,7 (default: all of the 37 that have a switch and are on)",
    )
    ablate.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="seeds of each, from --seed on; default 3"
    )
    ablate.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at once, each on its share of the cores; default 1",
    )
    ablate.add_argument("--out", metavar="DIR", help="the study to make, or to go on with")
    _add_json(ablate)
    _add_settings(ablate)

    bench = add("bench", _bench, "measure the speed of this machine and where the time goes")
    bench.add_argument("--game", default="breakout", metavar="GAME")
    bench.add_argument("--preset", default="classic", choices=PRESET_NAMES)
    bench.add_argument("--seconds", type=float, default=30.0, metavar="S", help="about this long")
    bench.add_argument(
        "--peers",
        type=int,
        metavar="ROUNDS",
        help="train beside Stable-Baselines3 instead, in turn, so many times (about "
        "two minutes each; needs ppo37[bench])",
    )
    _add_json(bench)
    _add_settings(bench, without=("reseed_interval",))

    details = add("details", _details, "list the details of PPO, or explain one with its code")
    details.add_argument("number", metavar="N", nargs="?", help="1 to 37, or A1 to A4")
    _add_json(details)

    games = add("games", _games, "list the games")
    _add_json(games)
    doctor = add("doctor", _doctor, "check that everything needed is here and works")
    doctor.add_argument(
        "--measure",
        action="store_true",
        help="measure the speed of each precision and kernels instead, and whether "
        "auto chooses the fastest; run nothing else beside it",
    )
    _add_json(doctor)
    return parser


def _run(words: list[str]) -> int:
    parser = build_parser()
    try:
        options, unknown = parser.parse_known_args(words)
    except SystemExit:  # after --help and --version
        return 0
    command = getattr(options, "command", None)
    if unknown:
        known = options.parser.option_names() if command else []
        prog = options.parser.prog if command else parser.prog
        raise UsageError(f"unknown argument {unknown[0]!r}{_hint(unknown[0], known, prog)}")
    if command is None:
        parser.print_help(sys.stderr)
        return 2
    return int(command(options))


def _hint(word: str, known: list[str], prog: str) -> str:
    """What may have been meant by an unknown argument, or where to look."""
    # Without dashes, which all have in common.
    names = {name.lstrip("-"): name for name in known}
    near = difflib.get_close_matches(word.split("=")[0].lstrip("-"), names, n=1)
    if near and word.startswith("-"):
        return f"; did you mean {names[near[0]]}?"
    settings = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(Config)}
    if word.split("=")[0] in settings and prog.endswith(("resume", "eval", "record")):
        return f": that is decided when a run begins, by `ppo37 train` (see `{prog} --help`)"
    return f" (see `{prog} --help`)"


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="UPDATES",
        help="updates between checkpoints (default: two minutes)",
    )
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _add_playing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", choices=choices("protocol"), help="default: as trained")
    parser.add_argument("--seed", type=int, default=0, help="of the games and actions; default 0")
    parser.add_argument("--device", default="auto", choices=choices("device"))


def _add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """One option per setting of `Config`; those not given stay as in the preset."""
    group = parser.add_argument_group(
        "settings", "in brackets the value of the classic preset; others are set by --preset"
    )
    for field in dataclasses.fields(Config):
        if field.name in (*_NOT_OPTIONS, *without):
            continue
        plain, optional = field_type(field)
        names = [field.name, *(old for old, new in RENAMED.items() if new == field.name)]
        flags = ["--" + name.replace("_", "-") for name in names]
        text = f"{field.metadata['help']} [{field.default}]".replace("%", "%%")
        if plain is bool:
            group.add_argument(
                *flags, action=argparse.BooleanOptionalAction, help=text, default=argparse.SUPPRESS
            )
            continue
        convert = _or_none(plain) if optional else plain
        group.add_argument(
            *flags,
            type=convert,
            choices=choices(field.name) or None,
            metavar=plain.__name__.upper() if plain is not str else None,
            default=argparse.SUPPRESS,
            help=text,
        )


def _or_none(plain: type) -> Any:
    def convert(text: str) -> Any:
        return None if text.lower() == "none" else plain(text)

    convert.__name__ = plain.__name__
    return convert


def _config(options: argparse.Namespace) -> Config:
    """The configuration that GAME, --preset and the settings ask for."""
    from .backends.device import resolve_device
    from .envs.games import resolve_game, shows_ram

    game = resolve_game(options.game)
    if shows_ram(options.game):
        if getattr(options, "observation", "ram") != "ram":
            raise UsageError(f"{options.game} means --observation ram; leave one of them out")
        options.observation = "ram"
    names = {field.name for field in dataclasses.fields(Config)} - set(_NOT_OPTIONS)
    changes = {name: value for name, value in vars(options).items() if name in names}
    device = resolve_device(changes.pop("device", "auto"))
    return from_preset(options.preset, game, device, **changes)


def _train(options: argparse.Namespace) -> int:
    started = time.monotonic()
    from .loop import train
    from .session.view import ConsoleView

    _require_positive("checkpoint-every", options.checkpoint_every)
    config = _config(options) if options.budget is None else _within_budget(options, started)
    summary = train(config, options.out, options.checkpoint_every, ConsoleView())
    return _finish(summary, options.json)


def _within_budget(options: argparse.Namespace, started: float) -> Config:
    """The configuration that --budget leaves time for, which counts from `started`.

    A job that was restarted goes on with what it had planned.
    """
    from .backends.ranks import join
    from .session import directory
    from .session.start import choose_directory
    from .tools import budget

    budget_s = budget.seconds(options.budget)
    if "total_timesteps" in options:
        raise UsageError("--budget and --total-timesteps both say how long; give one of them")
    options.total_timesteps = budget.MOST_STEPS  # whatever the preset has
    config = _config(options)
    with closing(join(config.device)) as ranks:
        path = Path(ranks.broadcast_from_main(lambda: choose_directory(config, options.out)))
        if options.out is not None and ranks.broadcast_from_main(lambda: directory.is_run(path)):
            return directory.read_config(path)
        say = _log if ranks.is_main else None
    plan = budget.plan(config, budget_s, started, say)
    if say is not None:
        for line in plan.words:
            say(line)
    return plan.config


def _resume(options: argparse.Namespace) -> int:
    from .loop import resume
    from .session.view import ConsoleView

    _require_positive("checkpoint-every", options.checkpoint_every)
    summary = resume(
        options.run, options.checkpoint_every, ConsoleView(), new_games=options.new_games
    )
    return _finish(summary, options.json)


def _finish(summary: Any, as_json: bool) -> int:
    """Report how training ended; the exit code.

    Of several ranks one speaks for all, so that no other's end is taken for the job's.
    """
    from .backends.ranks import own_rank

    if own_rank() != 0:
        return 0
    mean = (
        "no game has ended"
        if summary.last_100_mean is None
        else (f"mean of the last {min(summary.games, 100)} games {summary.last_100_mean:.1f}")
    )
    ended, then = ("finished", "eval") if summary.finished else ("stopped", "resume")
    _log(f"{ended} after {summary.agent_steps:,} agent steps and {summary.wall_s:.0f} s: {mean}")
    _log(f"next: ppo37 {then} {shlex.quote(shown(summary.run))}")
    if as_json:
        document = json.loads((summary.run / "summary.json").read_text())
        _print_json({"run": str(summary.run), **document})
    return 0 if summary.finished else SIGNALLED + summary.signal_number


def _eval(options: argparse.Namespace) -> int:
    from .tools.evaluate import evaluate
    from .tools.stats import human_normalised, reference

    result = evaluate(
        options.run,
        options.episodes,
        options.protocol,
        options.seed,
        options.device,
        _progress,
        _log,
    )
    normalised = human_normalised(result.game, result.mean)
    published = reference(result.game, result.protocol)
    if options.json:
        _print_json({**result.to_json(), "human_normalised": normalised, "published": published})
        return 0
    print(
        f"{result.game}, protocol {result.protocol}, {len(result.scores)} whole games, seed "
        f"{result.seed}, after {result.agent_steps:,} agent steps"
    )
    if result.interval is None:
        print(f"score {result.mean:.2f} (one game says nothing of the mean; --episodes 30)")
    else:
        low, high = result.interval
        spread = f"lowest {min(result.scores):g}, best {max(result.scores):g}"
        print(
            f"score {result.mean:.2f} +- {result.std:.2f} (95% interval of the mean {low:.2f} "
            f"to {high:.2f}; {spread})"
        )
    if normalised is not None:
        # + 0.0, because -0.00 is no number for people.
        print(f"human-normalised {round(normalised, 2) + 0.0:.2f} (0 is random play, 1 a human)")
    for name, value in published.items():
        if not name.endswith("_std"):
            print(f"  published {name:28} {value:10.2f}")
    if result.protocol != "classic" and published:
        print(f"  (published agents were trained without the sticky actions of {result.protocol})")
    return 0


def _record(options: argparse.Namespace) -> int:
    from .tools.record import record

    limit = {} if options.max_seconds is None else {"max_seconds": options.max_seconds}
    made = record(
        options.run,
        options.out,
        seed=options.seed,
        protocol=options.protocol,
        device=options.device,
        warn=_log,
        **limit,
    )
    _log(f"score {made.score:g} after {made.length:,} agent steps")
    print(shown(made.path))
    return 0


def _plot(options: argparse.Namespace) -> int:
    from .tools.plots import plot

    made = plot([Path(run) for run in options.runs], options.out, group=options.group, warn=_log)
    print(shown(made))
    return 0


def _export(options: argparse.Namespace) -> int:
    from .session.checkpoint import export
    from .session.directory import find_checkpoint

    saved, warnings = find_checkpoint(Path(options.run))
    for warning in warnings:
        _log(warning)
    print(shown(export(saved, Path(options.out))))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .tools.bench import bench, peers, table

    if options.peers is None:
        result = bench(_config(options), options.seconds)
        text = table(result)
    else:
        compare, markdown = peers()
        result = compare(_config(options), options.peers, say=_log)
        text = markdown(result)
    if options.json:
        _print_json(result)
    else:
        print(text)
    return 0


def _fingerprint(options: argparse.Namespace) -> int:
    from .session.checkpoint import fingerprint
    from .session.directory import find_checkpoint

    saved, warnings = find_checkpoint(Path(options.run))
    for warning in warnings:
        _log(warning)
    found = fingerprint(saved)
    if options.json:
        _print_json({"checkpoint": str(saved.path), "fingerprint": found})
    else:
        print(found)
    return 0


def _verify_resume(options: argparse.Namespace) -> int:
    from .tools.verify import verify_resume

    _require_positive("updates", options.updates)
    verdict = verify_resume(_config(options), options.updates, _log)
    if options.json:
        _print_json(verdict.to_json())
    else:
        print(f"never killed          {verdict.unbroken}")
        print(f"killed and resumed    {verdict.resumed}")
        log = "the same" if verdict.same_log else "NOT the same"
        same = "identical" if verdict.identical else "NOT identical"
        print(f"{same} after {verdict.updates} updates; the logs are {log}, the clock aside")
    return 0 if verdict.identical else 1


def _ablate(options: argparse.Namespace) -> int:
    from .tools.ablate import ablate
    from .tools.ablation_results import PICTURE, table

    details = None if options.details is None else options.details.split(",")
    path, result = ablate(_config(options), details, options.seeds, options.out, options.jobs, _log)
    if options.json:
        _print_json({"path": str(path), **result})
        return 0
    print(table(result))
    print(shown(path / PICTURE))
    return 0


def _details(options: argparse.Namespace) -> int:
    from .tools import details

    found = details.marks()
    if options.number is not None:
        detail = details.find(options.number)
        if options.json:
            _print_json(details.document(detail, found))
        else:
            print(details.explanation(detail, found))
        return 0
    ledger = details.load()
    if options.json:
        _print_json({"details": [details.document(detail, found) for detail in ledger]})
    else:
        print(details.table(ledger, found))
    return 0


def _games(options: argparse.Namespace) -> int:
    from .envs.games import CATCH, atari_games
    from .tools.stats import reference

    games = (CATCH, *atari_games())
    if options.json:
        _print_json({"games": [{"name": game, **reference(game)} for game in games]})
        return 0
    heads = ("random", "human", "PPO paper", "CleanRL/baselines PPO")
    print(f"{'game':24}" + "".join(f"  {head:>12}" for head in heads))
    for game in games:
        known = reference(game)
        best = known.get("cleanrl_ppo_atari", known.get("baselines_ppo2"))
        columns = (known.get("random"), known.get("human"), known.get("ppo_paper"), best)
        cells = ["-" if value is None else f"{value:,.1f}" for value in columns]
        wide = zip(cells, heads, strict=True)
        print(f"{game:24}" + "".join(f"  {cell:>{max(12, len(head))}}" for cell, head in wide))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from .tools.doctor import doctor, measure, speeds_table, table

    if options.measure:
        found = measure()
        if options.json:
            _print_json({"speeds": found})
        else:
            print(speeds_table(found))
        return 0
    checks = doctor()
    healthy = all(check.ok for check in checks)
    if options.json:
        _print_json({"ok": healthy, "checks": [check._asdict() for check in checks]})
    else:
        print(table(checks))
    return 0 if healthy else 1


def _require_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"--{name} must be at least 1, not {value}")


def _progress(done: int, wanted: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {wanted} games", end="\n" if done == wanted else "", file=sys.stderr)


def _with_dashes(word: str) -> str:
    """`--total_timesteps=5` means `--total-timesteps=5`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _log(text: str) -> None:
    with suppress(OSError):  # nobody reads stderr any more
        print(f"ppo37: {text}", file=sys.stderr)


def _fail(text: str, debug: bool, code: int) -> int:
    """Print one line, or the traceback as well; returns the exit code.

    No text: another of several ranks has said it.
    """
    if debug:
        traceback.print_exc()
    if text:
        _log(" ".join(text.split()))
    return code


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document))


def _version() -> str:
    from . import __version__

    return f"ppo37 {__version__}"
