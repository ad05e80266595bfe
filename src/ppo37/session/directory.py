"""Run directories: functions to create, lock and read them, and to move later results aside.

RUN/ has `config.json`, `metrics.jsonl`, `summary.json`, `checkpoints/`, TensorBoard events and a
lock; with evaluations also `evaluations.jsonl`, and `best/` if the best agent is kept.
"""

import dataclasses
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from ..backends.device import CHECKOUT, commit, describe_machine, versions
from ..config import Config, from_dict
from ..envs.atari.controls import action_dims
from ..envs.contract import Spaces
from ..errors import RunError, UsageError
from . import checkpoint
from .checkpoint_format import MANIFEST, Damaged, parse_json, read
from .files import (
    OTHER_OUT,
    TEMPORARY,
    explained,
    one_line,
    own_file,
    own_folder,
    real_path,
    space_missing,
    sync_directory,
    to_json,
    write_atomically,
    write_synced,
)

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
EVALUATIONS, BEST = "evaluations.jsonl", "best"
CHECKPOINTS, LOCK = "checkpoints", ".lock"
BROKEN_BATCH = "broken_batch.safetensors"
INIT_FROM = "init_from"
"""The key of the path and the fingerprint of the agent with whose weights a run began."""
AGENTS = CHECKOUT / "agents"
"""The trained agents, if this is a checkout or a source archive; a wheel has none."""
WHERE_AGENTS = "they come with the source code of ppo37, in its folder agents"
LONGEST_NAME = 80
"""The most characters of a name that is made from a text; a file system allows 255 bytes."""
LOCK_TRIALS, LOCK_PAUSE_S = 3, 0.05
IN_USE = "is in use by another process; wait for it or stop it"
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
"""The errors of a disk that does not support locks."""


def default_path(config: Config) -> Path:
    """Return `runs/{game}__{preset}__s{seed}__{unixtime}`."""
    parts = (file_name(config.game), file_name(config.preset), f"s{config.seed}")
    return real_path(Path("runs", "__".join((*parts, str(int(time.time()))))))


def file_name(text: str) -> str:
    """Return a name for a file or folder: `text` with `-` for all but letters, digits, `-_.`.

    So a text from the file of a stranger cannot become a path or the name of a hidden file.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:LONGEST_NAME]
    return re.sub(r"^\.*$|^\.", "-", name)


def is_file_name(text: str) -> bool:
    """Return whether a text has the characters of a name by `file_name`, at any length."""
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", text) is not None


def alternatives(first: Path) -> Iterator[Path]:
    """Yield a path, and then the same with -2, -3 and so on appended."""
    return chain([first], (first.with_name(f"{first.name}-{n}") for n in count(2)))


def claim(paths: Iterator[Path]) -> Path:
    """Make the first of these directories that does not exist; UsageError if it cannot be made."""
    for path in paths:
        with explained(f"cannot write {path}", OTHER_OUT), suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("numbers do not end")


def require_new(path: Path) -> None:
    """Raise UsageError if a run cannot be created at `path` because something is there."""
    with explained(f"cannot use {path}", OTHER_OUT):
        if path.is_dir() and _is_unused(path):
            return
        if (path / CONFIG).exists():
            raise UsageError(
                f"{path} holds a run already; `ppo37 resume {path}` or choose another --out"
            )
        if path.exists():
            raise UsageError(f"{path} exists and is not empty{OTHER_OUT}")


def _is_unused(path: Path) -> bool:
    """Return whether a directory is empty, except for files that a crash in `create` leaves."""
    names = {entry.name for entry in path.iterdir() if not entry.match(TEMPORARY)}
    return names <= {LOCK, CHECKPOINTS} and not any((path / CHECKPOINTS).glob("*"))


def create(
    path: Path, document: dict[str, Any], needed_bytes: int, warn: Callable[[str], None]
) -> IO[str]:
    """Make a run directory with its `config.json` and lock it. Returns the lock.

    needed_bytes: the free space that its checkpoints need.  warn: see `lock`.
    """
    require_new(path)
    try:
        own_folder(path, CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        missing = space_missing(path, needed_bytes)
        if missing:
            _remove_unused(path)
            raise UsageError(f"{missing}; free some or choose another --out")
        lock_file = lock(path, warn)
        write_atomically(path / CONFIG, to_json(document))
        sync_directory(path.parent)
    except OSError as error:
        _remove_unused(path)
        raise UsageError(f"cannot write {path}: {error.strerror}{OTHER_OUT}") from error
    return lock_file


def _remove_unused(path: Path) -> None:
    """Remove what `create` has made so far; folders that are not empty stay."""
    for made in (path / CONFIG, path / LOCK, path / CHECKPOINTS, path):
        with suppress(OSError):
            made.rmdir() if made.is_dir() else made.unlink()


def lock(path: Path, warn: Callable[[str], None]) -> IO[str]:
    """Lock a run directory until the returned file is closed; UsageError if it is locked.

    It also removes the unfinished files of killed processes. Some network disks have no locks: then
    nothing is locked, and `warn` is called.
    """
    for folder in (CHECKPOINTS, BEST):
        own_folder(path, folder)
    for part in (METRICS, EVALUATIONS, SUMMARY):
        own_file(path, part)
    name = own_file(path, LOCK)
    with explained(f"cannot write {path}"):
        file = name.open("a")
    try:
        _take(file)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"{path} {IN_USE}") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise UsageError(f"cannot lock {name}: {error.strerror}") from error
        warn(
            f"the disk of {path} has no locks ({error.strerror}): make sure that no other process "
            "trains there"
        )
        return file
    for unfinished in path.glob(TEMPORARY):
        if unfinished.is_dir() and not unfinished.is_symlink():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)
    return file


def _take(file: IO[str]) -> None:
    """Lock an open file; BlockingIOError if another process keeps it locked."""
    for _ in range(LOCK_TRIALS - 1):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_PAUSE_S)  # `is_locked` of another process may have the lock for a moment
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: Path) -> bool:
    """Return whether another process uses a run directory, as far as its disk has locks."""
    try:
        with (path / LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no directory yet, or no locks; `lock` reports what is wrong
        return False
    return False


def put_aside(run: Path, update: int) -> Path | None:
    """Move the checkpoints after an update, and a copy of the log, into `replaced-1` (or -2, ...).

    A best agent of a later update is moved, too. If the run has a log but no checkpoints at all,
    they may have been lost: then the log is copied as well. Returns that folder, or None if nothing
    was moved or copied. UsageError if the folder cannot be made.
    """
    checkpoints, log = own_folder(run, CHECKPOINTS), own_file(run, METRICS)
    later = checkpoint.after(checkpoints, update)
    lost = not checkpoint.numbered(checkpoints) and log.exists() and log.stat().st_size > 0
    if not later and not lost:
        return None
    logs = (METRICS, EVALUATIONS, SUMMARY)
    names = [name for name in logs if own_file(run, name).exists()]
    folder = claim(run / f"replaced-{n}" for n in count(1))
    with explained(f"cannot write {run}"):
        try:
            (folder / CHECKPOINTS).mkdir()
            for name in names:
                write_synced(folder / name, (run / name).read_bytes())
            for changed in (folder, run):
                sync_directory(changed)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)  # it has only copies so far
            raise
        for path in later:
            path.rename(folder / CHECKPOINTS / path.name)
        best = load_best(run)
        if best is not None and best.state["update"] > update:
            best.path.rename(folder / BEST)
        for changed in (folder, run):
            sync_directory(changed / CHECKPOINTS)
    return folder


def load_best(run: Path) -> checkpoint.Checkpoint | None:
    """Load the best agent of a run; None if there is none, or if it is damaged."""
    path = own_folder(run, BEST)
    try:
        return checkpoint.load(path) if path.exists() else None
    except Damaged:
        return None


def read_summary(run: Path) -> dict[str, Any]:
    """Read `summary.json`; Damaged if it is missing or no summary."""
    path = own_file(run, SUMMARY)
    found = parse_json(read(path), path)
    if not isinstance(found, dict) or "finished" not in found:
        raise Damaged(f"{path} is damaged")
    return found


def stopped_by(run: Path) -> str | None:
    """Return what stopped the last session of a run, from `summary.json`; None if nothing did.

    A run that was killed has no such file.
    """
    try:
        reason = read_summary(run).get("stopped_by")
    except Damaged:
        return None
    return one_line(reason) if isinstance(reason, str) else None


def is_run(path: Path) -> bool:
    """Return whether `path` is a run directory; UsageError if it cannot be read."""
    with explained(f"cannot read {path}"):
        return (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir()


def run_of(path: str | Path) -> Path:
    """Return the run directory of RUN, which is a run directory or a checkpoint in it."""
    path = find_agent(path)
    if is_run(path):
        return path
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    folder = path.parent
    if folder.name == CHECKPOINTS and is_run(folder.parent):
        return folder.parent
    if (path / MANIFEST).is_file():
        raise UsageError(
            f"{path} is a published agent: it can be evaluated and recorded, but not resumed or "
            "plotted"
        )
    raise UsageError(f"{path} is not a run directory (it has no {CONFIG} and {CHECKPOINTS}/)")


def find_agent(path: str | Path) -> Path:
    """Return the real path of RUN, or of the trained agent of this name where no such path exists.

    A path such as ./pong or pong/ is no name.  UsageError for a name that is neither.
    """
    if not str(path):
        raise UsageError("RUN is empty; give a run directory, or the name of a trained agent")
    found = real_path(path)
    if os.path.lexists(path) or Path(path).name != str(path):
        return found
    if (AGENTS / str(path) / MANIFEST).is_file():
        return AGENTS / str(path)
    where = "`ppo37 agents` lists them" if AGENTS.is_dir() else WHERE_AGENTS
    raise UsageError(f"{found} does not exist, and no trained agent has this name; {where}")


def find_checkpoint(path: str | Path) -> tuple[checkpoint.Checkpoint, list[str]]:
    """Load the checkpoint RUN, or the newest valid one of the run directory RUN, with warnings."""
    path = find_agent(path)
    if is_run(path):
        return checkpoint.load_newest(path / CHECKPOINTS)
    if not (path / MANIFEST).is_file():
        run_of(path)  # raises the error that fits
    return checkpoint.load(path), []


def read_document(run: Path) -> dict[str, Any]:
    """Read `config.json`: settings, machine and versions."""
    path = run / CONFIG
    document = parse_json(read(path), path)
    if not isinstance(document, dict):
        raise UsageError(f"{path} is damaged")
    return document


def read_config(run: Path) -> Config:
    """Read the configuration of a run."""
    document = read_document(run)
    if not isinstance(document.get("config"), dict):
        raise UsageError(f"{run / CONFIG} is damaged")
    return config_of(document)


def read_config_of(path: str | Path) -> Config:
    """Read the configuration of RUN: a run directory, a checkpoint or a published agent."""
    path = find_agent(path)
    return read_config(path) if is_run(path) else config_of(find_checkpoint(path)[0].state)


def config_of(document: dict[str, Any]) -> Config:
    """Return the configuration in the state of a checkpoint, or in `config.json`.

    UsageError if the name of the game could be a path to another folder.
    """
    values = document["config"]
    made_by = document.get("made_by")  # older files have the user's own environments here
    config = from_dict(values if made_by is None else {"env": made_by, **values})
    game = config.game
    if game.startswith("/") or ".." in game or not game.isprintable():
        raise UsageError(f"{one_line(repr(game))} is not the name of a game")
    return config


def spaces_in(state: dict[str, Any], config: Config) -> Spaces:
    """Return the spaces in the state of a checkpoint; older versions saved a part of them only.

    Damaged if the numbers of choices do not fit the kind of actions.
    """
    shape, names = tuple(state["obs_shape"]), tuple(state["action_names"])
    kind = state.get("action_space", config.action_space)
    dims = tuple(state.get("action_dims", action_dims(config.action_space, names)))
    if len(dims) != {"discrete": 1, "continuous": 0}.get(kind, max(1, len(dims))):
        raise Damaged(f"the checkpoint is damaged: {kind} actions with the choices {list(dims)}")
    obs_dtype, view_shape = state.get("obs_dtype", "uint8"), tuple(state.get("view_shape", shape))
    return Spaces(shape, obs_dtype, kind, names, dims, view_shape)


def write_config(run: Path, config: Config, agent_steps: int) -> None:
    """Replace the settings in `config.json`, and record there what changed after `agent_steps`."""
    if read_config(run) == config:
        return
    document = read_document(run)
    before = document["config"]
    now = parse_json(to_json(dataclasses.asdict(config)), run / CONFIG)  # lists, as files have them
    changed = {name: [before.get(name), v] for name, v in now.items() if before.get(name) != v}
    history = [*document.get("changes", []), {"agent_steps": agent_steps, "changed": changed}]
    with explained(f"cannot write {run / CONFIG}", kind=RunError):
        write_atomically(run / CONFIG, to_json({**document, "config": now, "changes": history}))


def describe_origin() -> dict[str, Any]:
    """Describe the machine, the versions and, in a checkout, the commit of a run or checkpoint."""
    known = {} if (found := commit()) is None else {"commit": found}
    return {"machine": describe_machine(), "versions": versions(), **known}


def job_of(run: Path) -> str | None:
    """Return the name of the job that started a run in several processes; None for any other."""
    try:
        found = read_document(run).get("job")
    except UsageError:
        return None
    return found if isinstance(found, str) else None


def write_summary(run: Path, document: dict[str, Any]) -> None:
    """Replace `summary.json`; RunError if it cannot be written."""
    path = run / SUMMARY
    with explained(f"cannot write {path}", "; the checkpoints of the run are valid", RunError):
        write_atomically(path, to_json(document))
