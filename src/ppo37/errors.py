"""The errors that users see. The command line prints one line for each and no traceback."""

LARGEST_NUMBER = 1 << 53
"""The largest whole number that is exact in JSON for every reader; larger ones are refused."""


class UsageError(ValueError):
    """Wrong usage or input; the message says what is wrong and what to do. Exit code 2."""


class RunError(RuntimeError):
    """A failure during a run; what was saved before stays valid. Exit code 1."""


class Stopped(KeyboardInterrupt):
    """The stop of work that saves nothing, by a signal. Exit code 128 + its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def not_loaded(error: ImportError | OSError) -> str:
    """Return a line that names the module that cannot be loaded, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the module {error.name} is missing; `pip install -e .` in the checkout of ppo37 "
            "installs all that is needed"
        )
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"a module cannot be loaded: {why}; install it again"
