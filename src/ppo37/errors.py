"""The errors that people see. The command line prints one line for each and no traceback."""

LARGEST_NUMBER = 1 << 53
"""Whole numbers up to here are exact in JSON, wherever it is read; larger ones are refused."""


class UsageError(ValueError):
    """Wrong usage or input; the message says what is wrong and what would be right. Exit 2."""


class RunError(RuntimeError):
    """A failure in the middle of work; what was saved before stays valid. Exit 1."""


class Stopped(KeyboardInterrupt):
    """A signal asked for the end of work that leaves nothing behind. Exit 128 + its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def not_loaded(error: ImportError | OSError) -> str:
    """Say in one line which module cannot be loaded, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the module {error.name} is missing; `pip install -e .` in the checkout of ppo37 "
            "installs all that is needed"
        )
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"a module cannot be loaded: {why}; install it again"
