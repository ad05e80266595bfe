"""The interface of a logger."""

from typing import Any


class Logger:
    """A logger that writes nothing; the base class of the others."""

    def write(self, record: dict[str, Any]) -> None:
        """Log an update; the record is made by `metrics.record_of`."""

    def sync(self) -> None:
        """Wait until the records are on the disk, if a resumed run needs them."""

    def close(self) -> None:
        """Write what is left, and release the files."""
