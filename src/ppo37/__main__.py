"""`python -m ppo37` and the command `ppo37`: every error, also of an import, is one line."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from .errors import not_loaded


def main() -> NoReturn:
    """Run the command line (`cli.main`)."""
    if sys.platform == "win32":
        _end("Windows is not supported; use WSL2 or a Linux container", 2)
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except (ImportError, OSError) as error:  # OSError where the library of a module is damaged
        _end(not_loaded(error), 2)
    run()


def _leave_out_working_directory() -> None:
    """Remove the working directory from where modules are found; `python -m` puts it first.

    Otherwise a file there, such as `safetensors.py`, would replace an installed module.
    """
    try:
        here = os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        _end("the working directory does not exist any more; change to another one", 2)
    is_ours = Path(__file__).resolve().parents[1] == Path(here).resolve()
    if not sys.flags.safe_path and sys.path[0] in ("", here) and not is_ours:
        del sys.path[0]


def _end(text: str, code: int) -> NoReturn:
    if sys.stderr is not None:  # where it is closed, this would go to stdout
        print(f"ppo37: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    _leave_out_working_directory()
    main()
