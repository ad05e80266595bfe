"""Checkpoints: folders of tensors and JSON that are complete or absent, and cannot lie.

A checkpoint `checkpoints/{update:08d}/` holds `model.safetensors`, `optimizer.safetensors`,
`state.json` and `manifest.json`, the last with the size and SHA-256 of the others. Nothing in
it can be executed. A published agent is the same without the optimizer.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import RunError, UsageError
from .files import space_missing, sync_directory, to_json, write_atomically, write_synced

FORMAT = 1
KEPT = 3
MODEL, OPTIMIZER, ACTIONS, STATE, MANIFEST = (
    "model.safetensors", "optimizer.safetensors", "actions.safetensors", "state.json",
    "manifest.json",
)  # fmt: skip
LARGEST_FILE_BYTES = 1 << 30
SPACE_FACTOR = 2
"""Free space asked for, in units of what is about to be written."""


class Damaged(UsageError):
    """A checkpoint that is not what its manifest says, or not a checkpoint."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds; a published agent has no `optimizer` and no `actions`.

    actions: for every environment, by its number, those [n] uint8 since its last beginning; None
    if the environments cannot be saved.  state: plain values.
    """

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None
    state: dict[str, Any]
    actions: dict[str, Tensor] | None = None


def save(
    directory: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor] | None,
    state: dict[str, Any], actions: dict[str, Tensor] | None = None,
) -> Path:  # fmt: skip
    """Write a checkpoint as `directory`: under a temporary name, synced, verified, renamed."""
    contents = {MODEL: safetensors.torch.save(model), STATE: to_json(state)}
    if optimizer is not None:
        contents[OPTIMIZER] = safetensors.torch.save(optimizer)
    if actions is not None:
        contents[ACTIONS] = safetensors.torch.save(actions)
    entries = {name: _entry(content) for name, content in contents.items()}
    contents[MANIFEST] = to_json({"format": FORMAT, "files": entries})

    directory.parent.mkdir(parents=True, exist_ok=True)
    missing = space_missing(directory.parent, SPACE_FACTOR * sum(map(len, contents.values())))
    if missing:
        raise RunError(f"{missing}; free some and resume from the checkpoint before")
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, content in contents.items():
            write_synced(temporary / name, content)
        sync_directory(temporary)
        verify(temporary)
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            what = f"{error.strerror}: cannot write checkpoint {directory}"
            raise RunError(f"{what}; the ones before it are valid") from error
        raise
    sync_directory(directory.parent)
    return directory


def prune(checkpoints: Path, keep: int = KEPT) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for old in numbered(checkpoints)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def forget_after(checkpoints: Path, update: int) -> list[str]:
    """Delete the checkpoints of later updates, which are about to be done anew; their names."""
    later = [path for path in numbered(checkpoints) if int(path.name) > update]
    for path in later:
        shutil.rmtree(path)
    return [path.name for path in later]


def numbered(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    if not checkpoints.is_dir():
        return []
    return sorted(
        (p for p in checkpoints.iterdir() if p.name.isdigit() and p.is_dir()), reverse=True
    )


def verify(directory: Path) -> dict[str, bytes]:
    """The files of a checkpoint by name; Damaged unless all are what the manifest says."""
    try:
        manifest = json.loads(_read(directory / MANIFEST))
        if manifest["format"] != FORMAT:
            raise Damaged(
                f"{directory} has checkpoint format {manifest['format']!r}; this version of ppo37 "
                f"reads format {FORMAT}"
            )
        entries = dict(manifest["files"])
        if not {MODEL, STATE} <= set(entries) <= {MODEL, STATE, OPTIMIZER, ACTIONS}:
            raise Damaged(f"{directory / MANIFEST} does not list a checkpoint's files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(f"{directory / MANIFEST} is damaged") from error
    contents = {}
    for name, expected in entries.items():
        content = _read(directory / name)
        if _entry(content) != expected:
            raise Damaged(f"{directory / name} is damaged: it is not what the manifest says")
        contents[name] = content
    return contents


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Tensors in a file of their own, for people to look at."""
    write_atomically(path, safetensors.torch.save(tensors))


def load(directory: Path) -> Checkpoint:
    """Read and verify one checkpoint."""
    contents = verify(directory)
    try:
        model = safetensors.torch.load(contents[MODEL])
        optimizer, actions = (
            safetensors.torch.load(contents[name]) if name in contents else None
            for name in (OPTIMIZER, ACTIONS)
        )
        state = json.loads(contents[STATE])
    except (safetensors.SafetensorError, ValueError, struct.error) as error:
        raise Damaged(f"{directory} cannot be read: {error}") from error
    return Checkpoint(directory, model, optimizer, state, actions)


def load_newest(checkpoints: Path) -> tuple[Checkpoint, list[str]]:
    """The newest valid checkpoint in a folder, and a warning for each damaged one skipped."""
    warnings: list[str] = []
    for directory in numbered(checkpoints):
        try:
            return load(directory), warnings
        except Damaged as error:
            warnings.append(f"skipped a damaged checkpoint: {error}")
    if warnings:
        raise Damaged(f"no valid checkpoint in {checkpoints}; " + "; ".join(warnings))
    raise UsageError(f"{checkpoints.parent} holds no checkpoint yet")


def require_same(saved: Checkpoint, what: str, found: Any, expected: Any) -> None:
    """UsageError unless a checkpoint's game, network or the like is the expected one."""
    if found != expected:
        raise UsageError(f"{saved.path} is of another {what}: {found}; expected {expected}")


def load_model(agent: torch.nn.Module, saved: Checkpoint) -> None:
    """Put saved weights into a network; Damaged unless names, shapes and types agree."""
    wanted = {name: (t.shape, t.dtype) for name, t in agent.state_dict().items()}
    found = {name: (t.shape, t.dtype) for name, t in saved.model.items()}
    if wanted != found:
        differing = sorted(set(wanted.items()) ^ set(found.items()), key=str)[0][0]
        raise Damaged(f"{saved.path / MODEL} does not fit the network: {differing} differs")
    agent.load_state_dict(saved.model)


def fingerprint(saved: Checkpoint) -> str:
    """One SHA-256 over all that determines how a run goes on: two of the same go on alike.

    That is everything but the clock, the machine and the versions.
    """
    digest = hashlib.sha256()
    for part in (saved.model, saved.optimizer or {}, saved.actions or {}):
        for name in sorted(part):
            tensor = part[name]
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    skipped = {"wall_s", "machine", "versions"}
    digest.update(to_json({k: v for k, v in saved.state.items() if k not in skipped}))
    return digest.hexdigest()


def export(saved: Checkpoint, directory: Path) -> Path:
    """Write the agent of a checkpoint, without its optimizer, as a new folder."""
    if directory.exists():
        raise UsageError(f"{directory} exists already; choose another --out")
    state = {name: value for name, value in saved.state.items() if name != "environments"}
    return save(directory, saved.model, None, state)


def tensors_of_optimizer(optimizer: Any, names: Iterator[str]) -> dict[str, Tensor]:
    """Adam's moments and step counts, named after the parameters they belong to."""
    state = optimizer.state_dict()["state"]
    return {
        f"{name}/{key}": value
        for index, name in enumerate(names)
        for key, value in state.get(index, {}).items()
    }


def restore_optimizer(optimizer: Any, names: Iterator[str], tensors: dict[str, Tensor]) -> None:
    """Put back what `tensors_of_optimizer` took; groups (rates, epsilon) stay as configured."""
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(names):
        prefix = f"{name}/"
        entry = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if entry:
            state[index] = entry
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise Damaged(f"{path} is larger than any checkpoint's file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
