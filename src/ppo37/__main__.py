"""`python -m ppo37` and the command `ppo37`: every error, also of an import, is one line."""

import sys
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


def _end(text: str, code: int) -> NoReturn:
    if sys.stderr is not None:  # where it is closed, this would go to stdout
        print(f"ppo37: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
