"""The source of other commits of this checkout, to train with them beside this version."""

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ppo37

from ..backends.device import CHECKOUT
from ..errors import UsageError

WORKING_TREE = "."
"""The name of the source as it is now, with changes that are not committed."""


def full_name(commit: str) -> str:
    """Return the hash of a commit; UsageError if this checkout has no such commit."""
    if not (CHECKOUT / ".git").exists():
        raise UsageError("commits can be compared in a checkout of ppo37 only")
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found is None:
        raise UsageError(f"{CHECKOUT} has no commit {commit!r}; `git log` lists them")
    return found.decode().strip()


class Source(NamedTuple):
    """A version of the package: a folder with it, and its commit, or a hash of its files."""

    folder: Path
    name: str


@contextmanager
def source_of(commit: str) -> Iterator[Source]:
    """Yield the package at a commit, or a copy of the working tree, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="ppo37-") as temporary:
        folder = Path(temporary) / "src"
        if commit == WORKING_TREE:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path(ppo37.__file__).parent, folder / "ppo37", ignore=ignored)
            yield Source(folder, f"working tree {_hash(folder)}")
            return
        name = full_name(commit)
        content = _git("archive", "--format=tar", name, "src")
        if content is None:
            raise UsageError(f"commit {commit} has no folder src")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(temporary, filter="data")
        yield Source(folder, name)


def _hash(folder: Path) -> str:
    """Return a hash of the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


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
