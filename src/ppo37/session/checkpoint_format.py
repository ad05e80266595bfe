"""The files of a checkpoint: their names and content, and the checks when they are read.

`manifest.json` has the size and SHA-256 of the other files, and its own SHA-256. Nothing in the
files can be executed. Reading allocates memory in proportion to their sizes, which have limits.
"""

import hashlib
import json
import stat
import struct
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..envs.contract import MOST_DIMENSIONS
from ..errors import LARGEST_NUMBER, RunError, UsageError
from .files import to_json

Tensors = dict[str, Tensor]

FORMAT = 3
"""Format 2, which ppo37 0.1 wrote, can be read too; some of its names differ."""
NAMES_OF_FORMAT_2 = {
    "seen_obs.": "obs_statistics.",
    "seen_returns.": "return_statistics.",
    "policy.possible": "policy.action_mask",
    "memory": "lstm_state",
}
"""Beginnings of tensor names in format 2, and what replaces them in format 3."""
MODEL, OPTIMIZER, ACTIONS, EXTRAS = (
    f"{name}.safetensors" for name in ("model", "optimizer", "actions", "extras")
)
STATE, MANIFEST = "state.json", "manifest.json"
FILES = {MODEL, OPTIMIZER, ACTIONS, EXTRAS, STATE, MANIFEST}
LARGEST_BYTES = {".safetensors": 1 << 30, ".json": 1 << 22}
STATE_FORM: dict[str, Any] = {
    "update": int,
    "agent_steps": int,
    "games": int,
    "seedings": int,
    "wall_s": float,
    "recent": [(int, float, int)],
    "action_names": [str],
    "obs_shape": [int],
    "environments": [dict],
    "config": dict,
    "machine": dict,
    "versions": dict,
}
"""The content of `state.json`, see `fits`."""
LATER_FORM: dict[str, Any] = {
    "cpu_s": float,
    "obs_dtype": str,
    "action_space": str,
    "action_dims": [int],
    "view_shape": [int],
    "sources": dict,
    "exact": bool,
    "commit": str,
    "half": bool,
}
"""More of its content, which earlier versions did not have."""
OBS_DTYPES = ("uint8", "float32")


class Damaged(UsageError):
    """A checkpoint that differs from its manifest, or is not a checkpoint."""


def encode(
    model: Tensors,
    optimizer: Tensors | None,
    state: dict[str, Any],
    actions: Tensors | None,
    extras: Tensors | None,
) -> dict[str, bytes]:
    """Return the files of a checkpoint by name; RunError if they cannot be saved."""
    try:
        contents = {MODEL: safetensors.torch.save(model), STATE: to_json(state)}
    except (TypeError, ValueError) as error:  # JSON has no nan and no numbers of NumPy
        raise RunError(f"the state of the run cannot be saved: {error}") from error
    for name, tensors in ((OPTIMIZER, optimizer), (ACTIONS, actions), (EXTRAS, extras)):
        if tensors is not None:
            contents[name] = safetensors.torch.save(tensors)
    contents[MANIFEST] = _manifest({name: _entry(c) for name, c in contents.items()}, FORMAT)
    return contents


def decode(
    directory: Path,
) -> tuple[Tensors, Tensors | None, dict[str, Any], Tensors | None, Tensors | None]:
    """Read and verify a checkpoint. Returns what `encode` was given.

    Damaged if it differs from its manifest; UsageError for another format, or for files that cannot
    be read now but may be complete.
    """
    contents, number = _verified(directory)
    state = parse_json(contents[STATE], directory / STATE)
    if not _is_state(state):
        raise Damaged(f"{directory / STATE} is not the state of a run")
    model, optimizer, actions, extras = (
        _tensors(contents[name], directory / name, number) if name in contents else None
        for name in (MODEL, OPTIMIZER, ACTIONS, EXTRAS)
    )
    assert model is not None
    if state.get("half"):
        model = {n: t.float() if t.dtype == torch.float16 else t for n, t in model.items()}
    return model, optimizer, state, actions, extras


def _verified(directory: Path) -> tuple[dict[str, bytes], int]:
    """Read the files of a checkpoint, by name, and its format, and compare the manifest."""
    path = directory / MANIFEST
    content = read(path)
    manifest = parse_json(content, path)
    entry_form = {"bytes": int, "sha256": str}
    if (
        not fits(manifest, {"format": int, "files": dict})
        or not all(fits(entry, entry_form) for entry in manifest["files"].values())
        # Compared as a whole, because its own SHA-256 has to cover every byte.
        or content != _manifest(manifest["files"], manifest["format"])
    ):
        raise Damaged(f"{path} is damaged")
    entries, number = manifest["files"], manifest["format"]
    if number not in (2, FORMAT):
        raise UsageError(
            f"{directory} has checkpoint format {number}; this version of ppo37 reads formats 2 "
            f"and {FORMAT}"
        )
    if not {MODEL, STATE} <= set(entries) <= FILES - {MANIFEST}:
        raise Damaged(f"{path} does not list a checkpoint's files")
    contents = {name: read(directory / name) for name in entries}
    for name, expected in entries.items():
        if _entry(contents[name]) != expected:
            raise Damaged(f"{directory / name} is damaged: it differs from the manifest")
    return contents, number


def read(path: Path, largest: int | None = None) -> bytes:
    """Read a file of a run; Damaged if it is missing or too large, UsageError if not readable.

    largest: the bytes that it may have; by default those of such a file of a run.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Damaged(f"{path} is not a file")
        if status.st_size > (largest or LARGEST_BYTES[path.suffix]):
            raise Damaged(f"{path} is larger than any such file can be")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def parse_json(content: bytes, path: Path) -> Any:
    """Return the value of a JSON file; Damaged if it is not JSON.  path: for the message."""
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: not JSON") from error


def _tensors(content: bytes, path: Path, number: int) -> Tensors:
    """Return the tensors of a file of format `number`, by their names in `FORMAT`."""
    # The errors that the reader raises for unknown types and for sizes that overflow.
    built_in = (ValueError, TypeError, LookupError, OverflowError, RuntimeError, struct.error)
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, *built_in) as error:
        raise Damaged(f"{path} cannot be read: {error}") from error
    return tensors if number == FORMAT else {_new_name(name): t for name, t in tensors.items()}


def fits(value: Any, form: Any) -> bool:
    """Return whether a value from JSON has a form as in `STATE_FORM`.

    A dict has at least the keys of its form, a list any length, and for a tuple of forms the value
    is a list with one item for each.
    """
    if isinstance(form, dict):
        return isinstance(value, dict) and all(
            name in value and fits(value[name], part) for name, part in form.items()
        )
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(item, form[0]) for item in value)
    if isinstance(form, tuple):
        return isinstance(value, list) and len(value) == len(form) and all(map(fits, value, form))
    if form is float:
        return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER  # false for nan
    return type(value) is form and (form is not int or 0 <= value <= LARGEST_NUMBER)


def _is_state(state: Any) -> bool:
    """Return whether a value from JSON is the state of a run."""
    if not fits(state, STATE_FORM):
        return False
    later = {name: form for name, form in LATER_FORM.items() if name in state}
    if not fits(state, later) or state.get("obs_dtype", OBS_DTYPES[0]) not in OBS_DTYPES:
        return False
    shapes = [state["obs_shape"], state.get("view_shape", state["obs_shape"])]
    known = all(1 <= len(shape) <= MOST_DIMENSIONS and all(shape) for shape in shapes)
    return known and all((state["action_names"], *state.get("action_dims", [])))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _new_name(name: str) -> str:
    for old, new in NAMES_OF_FORMAT_2.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _manifest(entries: dict[str, Any], number: int) -> bytes:
    listing = {"format": number, "files": entries}
    return to_json({**listing, "sha256": hashlib.sha256(to_json(listing)).hexdigest()})


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
