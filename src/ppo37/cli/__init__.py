"""The command line: `ppo37 train pong` and the other commands.

Results go to stdout, everything else to stderr. Exit codes: 0 success, 2 wrong usage or input,
1 failure, 130 interrupted (143 terminated) with a valid checkpoint saved.
"""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import RunError, Stopped, UsageError, not_loaded
from ..tools.processes import stop_with_parent
from .commands import SIGNAL_EXIT
from .common import log
from .options import parse

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def let_waiting_threads_sleep() -> None:
    """Make the threads of OpenMP, which PyTorch uses, sleep soon while they wait for each other.

    A thread that spins keeps its core from other programs. OpenMP reads these variables when
    PyTorch is loaded; values that the user has set stay.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU, as in PyTorch for Linux
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; LLVM and Intel, as on macOS


def open_streams() -> None:
    """Connect stdin, stdout and stderr to /dev/null where they are closed.

    Otherwise the next files that are opened would get their numbers, and receive the messages.
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
    args = list(sys.argv[1:] if arguments is None else arguments)
    let_waiting_threads_sleep()
    debug = "--debug" in args
    if not debug:
        threading.excepthook = lambda _: None  # errors of threads that matter reach the main thread
    # SIGUSR1 asks a run to save; where no run is active it must not end the process.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    before = {each: signal.getsignal(each) for each in STOPPING}
    for each in STOPPING:
        if before[each] is not signal.SIG_IGN:
            signal.signal(each, _interrupt)
    try:
        stop_with_parent()
        code = _run([arg for arg in args if arg != "--debug"], debug)
        sys.stdout.flush()  # here, where a failure can be reported
    except BrokenPipeError:  # the reader of the result has ended
        _silence_stdout()
        code = 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        text, code = _explain(error)
        if text:
            log(" ".join(text.split()))
    finally:
        for each in STOPPING:  # no signal can disturb the end of the command
            signal.signal(each, _ignore if arguments is None else before[each])
    sys.exit(code)


def _run(arguments: Sequence[str], debug: bool) -> int:
    try:
        options = parse(arguments)
    except SystemExit as end:  # argparse has printed the help or the version
        return int(end.code or 0)
    options.debug = debug
    return int(options.command(options))


def _explain(error: BaseException) -> tuple[str, int]:
    """Return the line to print for an error, and the exit code.

    The line is empty where another rank prints it.
    """
    match error:
        case UsageError():
            return str(error), 2
        case KeyboardInterrupt():
            number = error.signal_number if isinstance(error, Stopped) else signal.SIGINT
            return "interrupted", SIGNAL_EXIT + number
        case RunError():
            return str(error), 1
        case ImportError():
            return not_loaded(error), 2
        case PermissionError() if error.filename is not None:
            return f"cannot use {error.filename}: {error.strerror}", 2
        case OSError() if error.filename is None and error.errno in NO_ROOM:
            _silence_stdout()
            return f"cannot write the result: {error.strerror}", 1
    return f"{type(error).__name__}: {error} (--debug shows where)", 1


def _interrupt(number: int, _: Any) -> NoReturn:
    """End a command that does not handle signals itself; further signals are ignored."""
    for each in STOPPING:
        signal.signal(each, _ignore)
    raise Stopped(number)


def _ignore(_: int, __: Any) -> None:
    """Do nothing. SIG_IGN would make Python fail on a signal that has come already."""


def _silence_stdout() -> None:
    """Discard the unwritten output, which Python would try to write again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
