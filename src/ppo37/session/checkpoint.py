"""Checkpoints: folders of tensors and JSON that are complete or absent, and cannot lie.

A checkpoint `checkpoints/{update:08d}/` holds `model.safetensors`, `optimizer.safetensors`,
`actions.safetensors`, `state.json` and `manifest.json`, the last with the size and SHA-256 of the
others and its own. Nothing in it can be executed, and what a reader allocates is in proportion to
the sizes of the files, which are bounded. A published agent has neither optimizer nor actions.
"""

import hashlib
import json
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..backends.device import describe_machine, versions
from ..envs.contract import MOST_DIMENSIONS
from ..errors import LARGEST_NUMBER, RunError, UsageError
from .files import (
    TEMPORARY,
    beside,
    real_path,
    space_missing,
    sync_directory,
    to_json,
    write_atomically,
    write_synced,
)

FORMAT = 3
"""Format 2, which ppo37 0.1 wrote, is read as well; it has other names."""
NAMES_OF_FORMAT_2 = {
    "seen_obs.": "obs_statistics.",
    "seen_returns.": "return_statistics.",
    "policy.possible": "policy.action_mask",
    "memory": "lstm_state",
}
"""How the names of tensors in format 2 begin, and how the same ones begin now."""
KEPT = 3
MODEL, OPTIMIZER, ACTIONS, STATE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "actions.safetensors",
    "state.json",
    "manifest.json",
)
LARGEST_BYTES = {".safetensors": 1 << 30, ".json": 1 << 22}
MADE_BY = "made_by"
"""What made the environments, if they were not ours: the name of a class or function."""
SPACE_FACTOR = 2
"""Free space asked for, in units of what is about to be written."""


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
"""What `state.json` holds: a list may have any length, a tuple has one value per form."""


class Damaged(UsageError):
    """A checkpoint that is not what its manifest says, or not a checkpoint."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds; a published agent has no `optimizer` and no `actions`.

    actions: for every environment, by its number, those [n, ...] since its last beginning; None
    if the environments cannot be saved.  state: plain values.
    """

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None
    state: dict[str, Any]
    actions: dict[str, Tensor] | None = None


def describe_origin() -> dict[str, Any]:
    """Describe the machine and the versions that a run or a checkpoint is made with."""
    return {"machine": describe_machine(), "versions": versions()}


def save(
    directory: Path,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor] | None,
    state: dict[str, Any],
    actions: dict[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint as `directory`: under a temporary name, synced, read back, renamed.

    A checkpoint that is there already is replaced; RunError if something else is there, if what was
    written cannot be read back, or if it cannot be written.
    """
    try:
        contents = {MODEL: safetensors.torch.save(model), STATE: to_json(state)}
    except (TypeError, ValueError) as error:  # what JSON does not have: nan, or a number of NumPy's
        raise RunError(f"the state of the run cannot be saved: {error}") from error
    if optimizer is not None:
        contents[OPTIMIZER] = safetensors.torch.save(optimizer)
    if actions is not None:
        contents[ACTIONS] = safetensors.torch.save(actions)
    contents[MANIFEST] = _manifest({name: _entry(c) for name, c in contents.items()})

    for name, content in contents.items():
        if len(content) > LARGEST_BYTES[Path(name).suffix]:
            raise RunError(f"{name} of {directory} would be larger than can be read again")
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
        _remove_checkpoint(directory)
        temporary.rename(directory)
        sync_directory(directory.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            what = f"{error.strerror}: cannot write checkpoint {directory}"
            raise RunError(f"{what}; any before it is valid") from error
        raise
    return directory


def _require_readable(directory: Path) -> None:
    """RunError unless a checkpoint that was just written can be loaded."""
    try:
        load(directory)
    except UsageError as error:
        what = str(error).replace(f"{directory}/", "")
        raise RunError(f"a checkpoint that could not be read again was not kept: {what}") from error


def _remove_checkpoint(directory: Path) -> None:
    """Remove a checkpoint that is about to be replaced; RunError for anything else."""
    if not os.path.lexists(directory):
        return
    if not _is_ours(directory):
        raise RunError(f"{directory} is not a checkpoint; move it away and resume")
    shutil.rmtree(directory)


def _is_ours(directory: Path) -> bool:
    """Look whether a folder, no link to one, holds files of a checkpoint and nothing else."""
    names = {MODEL, OPTIMIZER, ACTIONS, STATE, MANIFEST}
    return (
        directory.is_dir()
        and not directory.is_symlink()
        and {path.name for path in directory.iterdir()} <= names
    )


def prune(checkpoints: Path, keep: int = KEPT) -> None:
    """Delete all but the newest `keep` checkpoints, and what kills left of unfinished ones."""
    old = [path for path in numbered(checkpoints)[keep:] if _is_ours(path)]
    for path in (*old, *checkpoints.glob(TEMPORARY)):
        shutil.rmtree(path, ignore_errors=True)


def after(checkpoints: Path, update: int) -> list[Path]:
    """Find the checkpoints of later updates."""
    return [path for path in numbered(checkpoints) if int(path.name) > update]


def numbered(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    if not checkpoints.is_dir():
        return []
    return sorted(
        (p for p in checkpoints.iterdir() if p.name.isdigit() and p.is_dir()), reverse=True
    )


def verify(directory: Path) -> tuple[dict[str, bytes], int]:
    """Return the files of a checkpoint by name, and its format; Damaged if the manifest disagrees.

    A plain UsageError for another format, or for files that cannot be read just now: they may be
    whole. (A manifest looks the same in every format.)
    """
    content = read(directory / MANIFEST)
    manifest = parse_json(content, directory / MANIFEST)
    if not fits(manifest, {"format": int, "files": dict}):
        raise Damaged(f"{directory / MANIFEST} is damaged")
    entries = manifest["files"]
    fit = all(fits(entry, {"bytes": int, "sha256": str}) for entry in entries.values())
    # None of its bytes is free, so that its own SHA-256 covers all that could be changed.
    if not fit or content != _manifest(entries, manifest["format"]):
        raise Damaged(f"{directory / MANIFEST} is damaged")
    if manifest["format"] not in (2, FORMAT):
        raise UsageError(
            f"{directory} has checkpoint format {manifest['format']}; this version of ppo37 reads "
            f"formats 2 and {FORMAT}"
        )
    if not {MODEL, STATE} <= set(entries) <= {MODEL, STATE, OPTIMIZER, ACTIONS}:
        raise Damaged(f"{directory / MANIFEST} does not list a checkpoint's files")
    contents = {name: read(directory / name) for name in entries}
    for name, expected in entries.items():
        if _entry(contents[name]) != expected:
            raise Damaged(f"{directory / name} is damaged: it is not what the manifest says")
    return contents, manifest["format"]


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Tensors in a file of their own, for people to look at."""
    together = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(together))


def load(directory: Path) -> Checkpoint:
    """Read and verify one checkpoint."""
    contents, number = verify(directory)
    state = parse_json(contents[STATE], directory / STATE)
    whole = fits(state, STATE_FORM) and all((state["action_names"], *state["obs_shape"]))
    if not whole or not 1 <= len(state["obs_shape"]) <= MOST_DIMENSIONS:
        raise Damaged(f"{directory / STATE} is not the state of a run")
    model, optimizer, actions = (
        _tensors(contents[name], directory / name, number) if name in contents else None
        for name in (MODEL, OPTIMIZER, ACTIONS)
    )
    assert model is not None
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


def parse_json(content: bytes, path: Path) -> Any:
    """The value that a file's bytes are; Damaged if they are no JSON."""
    try:
        return json.loads(content, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: no JSON") from error


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def require_makers(state: dict[str, Any], make_envs: Any, path: Path) -> None:
    """UsageError if environments of one's own were trained in, and none are given.

    state: of a checkpoint, or what a run says of itself.
    """
    made_by = state.get(MADE_BY)
    if made_by is not None and make_envs is None:
        raise UsageError(
            f"{path} was trained in environments made by {made_by}; from Python, give these as "
            "make_envs"
        )


def require_same(saved: Checkpoint, what: str, found: Any, expected: Any) -> None:
    """UsageError unless a checkpoint's game, network or the like is the expected one."""
    if found != expected:
        raise UsageError(f"{saved.path} is of another {what}: {found}; expected {expected}")


def load_model(agent: torch.nn.Module, saved: Checkpoint) -> None:
    """Put saved weights into a network; Damaged unless names, shapes and types agree.

    A network on the device `meta`, which has sizes but no memory, takes the saved tensors over.
    UsageError for weights that are not finite.
    """
    weights = agent.state_dict()
    _require_alike(weights, saved.model, saved.path / MODEL)
    for name, weight in saved.model.items():
        if not weight.isfinite().all():
            raise UsageError(f"{saved.path / MODEL} holds numbers that are not finite, in {name}")
    agent.load_state_dict(saved.model, assign=any(t.is_meta for t in weights.values()))


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
    """Write the agent of a checkpoint, without its optimizer, as a new folder.

    UsageError if anything is there already, or if it cannot be written.
    """
    named, directory = directory, real_path(directory)
    try:
        if os.path.lexists(named) or os.path.lexists(directory):
            raise UsageError(f"{directory} exists already; choose another --out")
        return save(directory, saved.model, None, {**saved.state, "environments": []})
    except (OSError, RunError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        raise UsageError(f"cannot write {directory}: {reason}; choose another --out") from error


def tensors_of_optimizer(optimizer: Any, names: Iterator[str]) -> dict[str, Tensor]:
    """Adam's moments and step counts, named after the parameters they belong to."""
    state = optimizer.state_dict()["state"]
    return {
        f"{name}/{key}": value
        for index, name in enumerate(names)
        for key, value in state.get(index, {}).items()
    }


def restore_optimizer(optimizer: Any, names: Iterator[str], saved: Checkpoint) -> None:
    """Put back what `tensors_of_optimizer` took; groups (rates, epsilon) stay as configured.

    Damaged unless there are two moments like every parameter, and a count.
    """
    assert saved.optimizer is not None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor | None]] = {}
    wanted: dict[str, Tensor] = {}
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        like = {"exp_avg": parameter, "exp_avg_sq": parameter, "step": torch.tensor(0.0)}
        wanted |= {f"{name}/{key}": tensor for key, tensor in like.items()}
        state[index] = {key: saved.optimizer.get(f"{name}/{key}") for key in like}
    _require_alike(wanted, saved.optimizer, saved.path / OPTIMIZER)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _require_alike(wanted: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Damaged unless names, shapes and types agree."""
    kinds = [{name: (t.shape, t.dtype) for name, t in each.items()} for each in (wanted, found)]
    differing = sorted(name for name, _ in set(kinds[0].items()) ^ set(kinds[1].items()))
    if differing:
        raise Damaged(f"{path} does not fit the network: {differing[0]} differs")


def fits(value: Any, form: Any) -> bool:
    """Whether a value from JSON has a form as in `STATE_FORM`."""
    if isinstance(form, dict):
        return isinstance(value, dict) and all(
            name in value and fits(value[name], part) for name, part in form.items()
        )
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(item, form[0]) for item in value)
    if isinstance(form, tuple):
        return isinstance(value, list) and len(value) == len(form) and all(map(fits, value, form))
    if form is float:
        return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER  # not so nan
    return type(value) is form and (form is not int or 0 <= value <= LARGEST_NUMBER)


def _manifest(entries: dict[str, Any], number: int = FORMAT) -> bytes:
    listing = {"format": number, "files": entries}
    return to_json({**listing, "sha256": hashlib.sha256(to_json(listing)).hexdigest()})


def _tensors(content: bytes, path: Path, number: int = FORMAT) -> dict[str, Tensor]:
    """Read the tensors of a file of format `number`, by their present names."""
    try:
        tensors = safetensors.torch.load(content)
    except (
        safetensors.SafetensorError,
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
        RuntimeError,
        struct.error,
    ) as error:  # what its reader lets through: unknown types, sizes that overflow
        raise Damaged(f"{path} cannot be read: {error}") from error
    if number == FORMAT:
        return tensors
    return {_new_name(name): tensor for name, tensor in tensors.items()}


def _new_name(name: str) -> str:
    """Return the present name of a tensor of format 2."""
    for old, new in NAMES_OF_FORMAT_2.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read(path: Path) -> bytes:
    """Read a file of ours; Damaged if it is none of ours, UsageError if it may not be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Damaged(f"{path} is not a file")
        if path.stat().st_size > LARGEST_BYTES[path.suffix]:
            raise Damaged(f"{path} is larger than any such file can be")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
