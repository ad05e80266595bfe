"""The source of another commit of this checkout, to run it beside this one."""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UsageError
from ..tools.bench import CHECKOUT

WORKING_TREE = "."
"""Names the source as it is now, with changes that are not committed."""


def full_name(commit: str) -> str:
    """Return the hash of a commit; UsageError if this checkout has no such commit."""
    if commit == WORKING_TREE:
        return "working tree"
    if not (CHECKOUT / ".git").exists():
        raise UsageError("commits can be compared in a checkout of ppo37 only")
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found is None:
        raise UsageError(f"{CHECKOUT} has no commit {commit!r}; `git log` lists them")
    return found.decode().strip()


@contextmanager
def source_of(commit: str) -> Iterator[Path]:
    """Yield the folder with the package at a commit, as long as the block lasts."""
    if commit == WORKING_TREE:
        yield CHECKOUT / "src"
        return
    content = _git("archive", "--format=tar", full_name(commit), "src")
    if content is None:
        raise UsageError(f"commit {commit} has no folder src")
    with tempfile.TemporaryDirectory(prefix="ppo37-") as folder:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder) / "src"


def _git(*arguments: str) -> bytes | None:
    """Return what git prints; None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, check=True
        )
    except OSError as error:
        raise UsageError(f"git cannot be run: {error.strerror}") from error
    except subprocess.CalledProcessError:
        return None
    return done.stdout
