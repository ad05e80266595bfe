"""The directory of many runs: a run directory for each, and a document about all of them."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..backends.precision import choose_precision
from ..build import Brought, make_agent, make_factory
from ..config import Config, from_dict
from ..envs import spaces_of
from ..errors import RunError, UsageError
from ..session import directory
from ..session.checkpoint_format import Damaged, parse_json, read
from ..session.files import (
    OTHER_OUT,
    TEMPORARY,
    explained,
    own_folder,
    real_path,
    to_json,
    write_atomically,
)
from .engine import Grid
from .room import Needs, needs_of

LARGEST_DOCUMENT = 1 << 28
"""Bytes of the largest document; one of 10,000 runs has about 10 MB."""


def default_path(kind: str, config: Config) -> Path:
    """Make a new directory `runs/{kind}__{game}__{preset}__{unixtime}`.

    Commands that start in the same second get different ones.
    """
    names = map(directory.file_name, (kind, config.game, config.preset, str(int(time.time()))))
    return directory.claim(directory.alternatives(real_path(Path("runs", "__".join(names)))))


def require_free(path: Path, document: str) -> None:
    """Raise UsageError if a directory is in use, or is not empty and lacks this document."""
    with explained(f"cannot use {path}", OTHER_OUT):
        found = path.iterdir() if path.exists() else iter(())
        names = {entry.name for entry in found if not entry.match(TEMPORARY)}
    if names - {directory.LOCK} and document not in names:
        raise UsageError(f"{path} is not empty and has no {document}; choose another --out")
    if directory.is_locked(path):
        raise UsageError(f"{path} {directory.IN_USE}")


def open_folder(path: Path, document: str, log: Callable[[str], None]) -> IO[str]:
    """Make the directory if there is none, and lock it until the result is closed.

    UsageError as for `require_free`.
    """
    require_free(path, document)
    with explained(f"cannot use {path}", OTHER_OUT):
        path.mkdir(parents=True, exist_ok=True)
    return directory.lock(path, log)


def read_document(path: Path) -> dict[str, Any] | None:
    """Read the document of a directory; None if there is none. UsageError if it is damaged."""
    if not path.exists():
        return None
    try:
        found = parse_json(read(path, LARGEST_DOCUMENT), path)
    except Damaged as error:
        raise UsageError(f"{path} is damaged; choose another --out") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged; choose another --out")
    return found


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write the document; RunError if that fails."""
    write_file(path, to_json(document))


def write_file(path: Path, content: bytes) -> None:
    """Write a file of the directory; RunError if that fails."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; the runs are valid, repeat the command to "
            "resume"
        ) from error


def require_same_settings(grid: Grid) -> None:
    """Raise UsageError if a run in the directory has other settings than the one to train."""
    for run in grid.runs:
        own_folder(grid.path, run.name)
        if not directory.is_run(run.path):
            directory.require_new(run.path)
            continue
        found = directory.read_config(run.path)
        # Older versions wrote the threads to the runs, but not to the document.
        if dataclasses.replace(found, threads=run.config.threads) != run.config:
            raise UsageError(f"{run.path} is a run of other settings; choose another --out")


class Resolved(NamedTuple):
    """Settings without `auto`, and what their run needs."""

    config: Config
    needs: Needs


def resolve(config: Config, threads: int, brought: Brought) -> Resolved:
    """Choose precision, kernels and threads once for all runs; other machines use them, too.

    threads: those of a run if the configuration has None.
    """
    with closing(make_factory(config, num_threads=1, make_envs=brought.make_envs)(1, 0)) as envs:
        agent = make_agent(config, spaces_of(envs, config.action_space), brought.network)
        agent = agent.to(config.device)
        choice = choose_precision(config, agent, envs.obs_shape, config.minibatch_size)
    config = dataclasses.replace(choice.applied(config), threads=config.threads or threads)
    return Resolved(config, needs_of(config, agent))


def with_known_choices(config: Config, saved: Any, what: str) -> Config:
    """Return settings with the choices for `auto` that were saved before.

    saved: the settings in a document.  what: names them in the error.  UsageError if others differ.
    """
    if not isinstance(saved, dict):
        raise UsageError(f"{what}, or its document is damaged; choose another --out")
    known = from_dict(saved)
    for name, unset in (("precision", "auto"), ("kernels", "auto"), ("threads", None)):
        if getattr(config, name) == unset:
            config = dataclasses.replace(config, **{name: getattr(known, name)})
    require_equal(known, config, what)
    return config


def require_equal(known: Config, config: Config, what: str) -> None:
    """Raise a UsageError that begins with `what` if two configurations differ."""
    changed = [
        f"{name} {value}, not {getattr(config, name)}"
        for name, value in dataclasses.asdict(known).items()
        if value != getattr(config, name)
    ]
    if changed:
        raise UsageError(f"{what} ({'; '.join(changed)}); choose another --out")
