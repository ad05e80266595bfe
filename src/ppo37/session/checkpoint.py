"""Checkpoints of a run: functions to write, find, load and delete them.

A checkpoint is a folder `checkpoints/{update:08d}/`, complete or absent. It has
`model.safetensors`, `optimizer.safetensors`, `actions.safetensors`, `state.json` and
`manifest.json`, and `extras.safetensors` if the loop of a user has more to save.
`checkpoint_format.py` defines these files, and `state.py` their content. A published agent has only
`model.safetensors`, `state.json` and `manifest.json`.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import RunError, UsageError
from .checkpoint_format import (
    FILES,
    LARGEST_BYTES,
    MANIFEST,
    MODEL,
    STATE,
    Damaged,
    Tensors,
    decode,
    encode,
)
from .files import (
    TEMPORARY,
    beside,
    real_path,
    space_missing,
    sync_directory,
    to_json,
    write_synced,
)

KEPT = 3
FILE_SUFFIXES = {".bin", ".ckpt", ".gz", ".h5", ".json", ".onnx", ".pkl", ".pt", ".pth"}
FILE_SUFFIXES |= {".safetensors", ".tar", ".zip"}
"""Suffixes of files; an exported folder must not have one."""
SPACE_FACTOR = 2
"""Required free space, as a multiple of the size of the checkpoint to be written."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint; a published agent has only `model` and `state`.

    actions: the actions [n, ...] of every environment since it was seeded, by its number; None if
    the environments cannot be saved.  state: values as in `STATE_FORM`.  extras: see `Brought`.
    """

    path: Path
    model: Tensors
    optimizer: Tensors | None
    state: dict[str, Any]
    actions: Tensors | None = None
    extras: Tensors | None = None


def save(
    directory: Path,
    model: Tensors,
    optimizer: Tensors | None,
    state: dict[str, Any],
    actions: Tensors | None = None,
    extras: Tensors | None = None,
) -> Path:
    """Write a checkpoint under a temporary name, sync it, read it back, rename it to `directory`.

    An existing checkpoint is replaced. RunError if something else is there, or if the checkpoint
    cannot be written or read back.
    """
    contents = encode(model, optimizer, state, actions, extras)
    for name, content in contents.items():
        if len(content) > LARGEST_BYTES[Path(name).suffix]:
            raise RunError(f"{directory / name} would be larger than can be read again")
    temporary = beside(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        missing = space_missing(directory.parent, SPACE_FACTOR * sum(map(len, contents.values())))
        if missing:
            raise RunError(f"{missing}; free some and resume from the checkpoint before")
        temporary.mkdir()
        for name, content in contents.items():
            write_synced(temporary / name, content)
        sync_directory(temporary)
        _require_readable(temporary)
        if os.path.lexists(directory):
            if not _is_checkpoint(directory):
                raise RunError(f"{directory} is not a checkpoint; move it away and resume")
            shutil.rmtree(directory)
        temporary.rename(directory)
        sync_directory(directory.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            what = f"{error.strerror}: cannot write checkpoint {directory}"
            raise RunError(f"{what}; earlier ones are valid") from error
        raise
    return directory


def load(directory: Path) -> Checkpoint:
    """Read and verify one checkpoint; Damaged or UsageError as in `decode`."""
    return Checkpoint(directory, *decode(directory))


def load_newest(checkpoints: Path) -> tuple[Checkpoint, list[str]]:
    """Load the newest valid checkpoint in a folder; also return a warning for each damaged one."""
    warnings: list[str] = []
    for directory in numbered(checkpoints):
        try:
            return load(directory), warnings
        except Damaged as error:
            warnings.append(f"skipped a damaged checkpoint: {error}")
    if warnings:
        raise Damaged(f"no valid checkpoint in {checkpoints}; " + "; ".join(warnings))
    raise UsageError(f"{checkpoints.parent} has no checkpoint yet")


def numbered(checkpoints: Path) -> list[Path]:
    """List the checkpoints in a folder, newest first."""
    if not checkpoints.is_dir():
        return []
    found = (path for path in checkpoints.iterdir() if path.name.isdigit() and path.is_dir())
    return sorted(found, reverse=True)


def after(checkpoints: Path, update: int) -> list[Path]:
    """List the checkpoints of later updates."""
    return [path for path in numbered(checkpoints) if int(path.name) > update]


def prune(checkpoints: Path, keep: int = KEPT) -> None:
    """Delete all but the newest `keep` checkpoints, and unfinished ones of killed processes."""
    old = [path for path in numbered(checkpoints)[keep:] if _is_checkpoint(path)]
    for path in (*old, *checkpoints.glob(TEMPORARY)):
        shutil.rmtree(path, ignore_errors=True)


def export(saved: Checkpoint, directory: Path, half: bool = False) -> Path:
    """Write the agent of a checkpoint, without its optimizer, as a new folder.

    half: store fp32 weights in half precision, fp16; they are fp32 again when the agent is loaded.
    UsageError if `directory` has the name of a file, exists or cannot be written, and for weights
    that are too large for fp16.
    """
    if directory.suffix.lower() in FILE_SUFFIXES:
        raise UsageError(
            f"export writes a folder with {MODEL}, {STATE} and {MANIFEST}, not a file "
            f"{directory.suffix}: name it {directory.with_suffix('')}; for ONNX, the page Publish "
            "and load has the lines"
        )
    named, directory = directory, real_path(directory)
    try:
        if os.path.lexists(named) or os.path.lexists(directory):
            raise UsageError(f"{directory} exists already; choose another --out")
        model = _in_half(saved.model) if half else saved.model
        state = {name: value for name, value in saved.state.items() if name != "half"}
        state |= {"environments": []} | ({"half": True} if half else {})
        return save(directory, model, None, state)
    except (OSError, RunError) as error:
        # The part of the message that is not about resuming a run.
        reason = (
            getattr(error.__cause__ or error, "strerror", None) or str(error).partition("; ")[0]
        )
        raise UsageError(f"cannot write {directory}: {reason}; choose another --out") from error


def _in_half(model: Tensors) -> Tensors:
    """Return tensors with fp16 instead of fp32; UsageError for a number that is too large."""
    found = {name: t.half() if t.dtype == torch.float32 else t for name, t in model.items()}
    for name, tensor in found.items():
        if not tensor.isfinite().all() and model[name].isfinite().all():
            raise UsageError(f"{name} has weights above 65,504, too large for half precision")
    return found


def fingerprint(saved: Checkpoint) -> str:
    """Return a SHA-256 of everything that determines how a run continues.

    It leaves out the clock, the machine, versions, commit and sources, `exact` and `env_workers`.
    """
    digest = hashlib.sha256()
    for part in (saved.model, saved.optimizer or {}, saved.actions or {}, saved.extras or {}):
        for name in sorted(part):
            tensor = part[name]
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    skipped = {"wall_s", "cpu_s", "machine", "versions", "commit", "sources", "exact"}
    state = {k: v for k, v in saved.state.items() if k not in skipped}
    state["config"] = {k: v for k, v in state["config"].items() if k != "env_workers"}
    digest.update(to_json(state))
    return digest.hexdigest()


def _require_readable(directory: Path) -> None:
    """Raise RunError unless a checkpoint that was just written can be loaded."""
    try:
        load(directory)
    except UsageError as error:
        what = str(error).replace(f"{directory}/", "")
        raise RunError(f"the new checkpoint could not be read back: {what}") from error


def _is_checkpoint(directory: Path) -> bool:
    """Return whether this is a folder, not a link, with only files of a checkpoint in it."""
    real = directory.is_dir() and not directory.is_symlink()
    return real and {path.name for path in directory.iterdir()} <= FILES
