"""Whatever a crash leaves on the disk, a run goes on from it as if nothing had happened."""

import errno
import io
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL_STATE, fingerprint_and_log, tiny

from ppo37 import Config, resume, train
from ppo37.config import from_preset
from ppo37.errors import RunError, UsageError
from ppo37.session import checkpoint, directory
from ppo37.session.checkpoint import Damaged
from ppo37.session.loggers import JsonLines
from ppo37.session.metrics import read_metrics


def _save(checkpoints: Path, update: int) -> None:
    tensors = {"weight": torch.arange(update, update + 4.0)}
    counts = {"weight/step": torch.tensor(float(update))}
    state = {**SMALL_STATE, "update": update}
    checkpoint.save(checkpoints / f"{update:08d}", tensors, counts, state)


# Damage


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_every_flipped_bit_and_every_truncation_is_noticed(bits: int, tmp_path: Path) -> None:
    """Of every byte one bit, or with 8 all."""
    _save(tmp_path, 7)
    folder = tmp_path / "00000007"
    noticed = 0
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for position, bit in itertools.product(range(len(content)), range(bits)):
            flipped = bytearray(content)
            flipped[position] ^= 1 << ((position + bit) % 8)
            path.write_bytes(flipped)
            with pytest.raises(Damaged):
                checkpoint.load(folder)
            noticed += 1
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(Damaged):
                checkpoint.load(folder)
            noticed += 1
        path.write_bytes(content)
    checkpoint.load(folder)
    print(f"{noticed:,} of {noticed:,} changes noticed")


# A full disk


class FullDisk:
    """Writing fails, half done, and so does syncing, after `room` times."""

    def __init__(self, room: int) -> None:
        self.times = 0
        self._room = room

    def open(self, *arguments: Any, **options: Any) -> Any:
        file = _OPEN(*arguments, **options)
        return _Writer(file, self) if file.writable() else file

    def write(self, write: Callable[[Any], int], content: Any) -> int:
        if self._is_full():
            write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(content)

    def fsync(self, handle: int) -> None:
        if self._is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _FSYNC(handle)

    def _is_full(self) -> bool:
        self.times += 1
        return self.times > self._room


class _Writer:
    def __init__(self, file: Any, disk: FullDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: Any) -> int:
        return self._disk.write(self._file.write, content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


_OPEN, _FSYNC = io.open, os.fsync


@contextmanager
def _disk(room: int) -> Iterator[FullDisk]:
    disk = FullDisk(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", disk.open)
        patch.setattr(os, "fsync", disk.fsync)
        yield disk


def _train_or_resume(config: Config, run: Path) -> None:
    if directory.is_run(run):
        resume(run, checkpoint_every=2)
    else:
        train(config, run, checkpoint_every=2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("every", [79, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_at_any_moment_costs_no_run(every: int, tmp_path: Path) -> None:
    with _disk(10**9) as disk:
        train(tiny(), tmp_path / "whole", checkpoint_every=2)
    assert disk.times > 50
    whole = fingerprint_and_log(tmp_path / "whole")
    for room in range(0, disk.times, every):
        run = tmp_path / str(room)
        with _disk(room), pytest.raises((RunError, UsageError)) as caught:
            train(tiny(), run, checkpoint_every=2)
        assert "No space left" in str(caught.value), f"time {room}: {caught.value}"
        assert not list(run.rglob("*.tmp")), f"time {room}"
        _train_or_resume(tiny(), run)
        assert fingerprint_and_log(run) == whole, f"time {room}"
        shutil.rmtree(run)
    print(f"full at each {every} of {disk.times} times: every run went on")


# Crashes between any two steps


class Crashes:
    """Looks, before every step that changes a disk, at all that a crash there could leave.

    What was written to a file since it was last synced may be there whole or half, be zeros, or
    be missing; a file that never was synced may be missing itself. Nothing may be deleted while
    a new name may still be missing.
    """

    def __init__(self, live: Path, copy: Path) -> None:
        self.states = 0
        self._live, self._copy = live, copy
        self._synced: dict[int, bytes] = {}  # by inode, what was in it when it was synced
        self._loose: set[int] = set()  # folders with new names in them, not yet synced
        self._looking = False

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        fsync = os.fsync

        def sync(handle: int) -> None:
            self._look()
            fsync(handle)
            number = os.fstat(handle).st_ino
            self._loose.discard(number)
            contents = {path.stat().st_ino: path.read_bytes() for path in self._files()}
            self._synced |= {n: content for n, content in contents.items() if n == number}

        patch.setattr(os, "fsync", sync)
        for owner, name in (
            (Path, "mkdir"),
            (Path, "rename"),
            (Path, "replace"),
            (os, "rmdir"),
            (os, "unlink"),
        ):
            patch.setattr(owner, name, self._looking_before(getattr(owner, name)))

    def _looking_before(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self._look()
            if not self._looking and genuine.__name__ in ("rmdir", "unlink"):
                assert not self._loose, f"{genuine.__name__} {arguments} before a sync"
            answer = genuine(*arguments, **options)
            if genuine.__name__ in ("rename", "replace"):
                self._loose.add(Path(arguments[1]).parent.stat().st_ino)
            return answer

        return step

    def _look(self) -> None:
        if self._looking or not self._live.exists():
            return
        self._looking = True
        self._judge(None, None)
        for path in self._files():
            content = path.read_bytes()
            synced = self._synced.get(path.stat().st_ino, b"")
            if not content.startswith(synced):
                synced = b""  # a new file in the place of an old one
            new = content[len(synced) :]
            left = [synced + new[: len(new) // 2], synced, synced + bytes(len(new))] if new else []
            for each in [*left, None] if new and not synced else left:
                self._judge(path.relative_to(self._live), each)
        self._looking = False

    def _files(self) -> list[Path]:
        """What somebody reads: neither TensorBoard's events nor the lock."""
        ignored = ("events.", ".lock")
        files = (path for path in self._live.rglob("*") if path.is_file())
        return [path for path in files if not path.name.startswith(ignored)]

    def _judge(self, changed: Path | None, left: bytes | None) -> None:
        shutil.copytree(self._live, self._copy)
        if changed is not None:
            path = self._copy / changed
            path.unlink() if left is None else path.write_bytes(left)
        _require_going_on(self._copy)
        shutil.rmtree(self._copy)
        self.states += 1


def _require_going_on(run: Path) -> None:
    """It can be begun, or begun anew, or resumed from a checkpoint with its whole log."""
    if not directory.is_run(run):
        directory.require_new(run)
        return
    directory.read_config(run)
    if checkpoint.numbered(run / "checkpoints"):
        saved, warnings = checkpoint.load_newest(run / "checkpoints")
        assert not warnings
        update = saved.state["update"]
        JsonLines(run, update).close()
        assert [r["update"] for r in read_metrics(run)] == list(range(1, update + 1))


def test_a_crash_between_any_two_steps_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes(tmp_path / "run", tmp_path / "copy")
    crashes.watch(monkeypatch)
    train(tiny(), tmp_path / "run", checkpoint_every=1)
    monkeypatch.undo()
    assert crashes.states > 200
    print(f"{crashes.states} states, and each goes on")


# SIGKILL

KILLED = {
    "num_envs": 2,
    "num_steps": 64,
    "total_timesteps": 8 * 128,
    "network": "nature_half",
    "precision": "fp32",
    "reseed_interval": 60,
    "seed": 5,
    "num_minibatches": 4,
    "update_epochs": 1,
    "threads": 2,
}
"""Eight updates, in about a second; small, but every part of a long run is in it."""

PRELOADED = [
    "ppo37.loop",
    "ppo37.envs.atari.env",
    "torch.utils.tensorboard",
    "ale_py.vector_env",
    "gymnasium.vector",
    "pytest",
]


def _forked(work: Callable[..., Any], *arguments: Any) -> multiprocessing.Process:
    """Work in a process of its own that need not import everything first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


def _in_time(config: Config, run: Path) -> float:
    started = time.monotonic()
    process = _forked(_train_or_resume, config, run)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("game", "protocol", "preset"),
    [
        ("breakout", "classic", "classic"),
        pytest.param("space_invaders", "machado", "fast", marks=pytest.mark.slow),
        pytest.param("breakout", "machado", "fast", marks=pytest.mark.slow),
        pytest.param("space_invaders", "classic", "classic", marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_a_run_ends_as_if_it_had_not_been(
    game: str, protocol: str, preset: str, kills: int, tmp_path: Path
) -> None:
    config = from_preset(preset, game, "cpu", protocol=protocol, **KILLED)
    lasts_s = _in_time(config, tmp_path / "whole")
    whole = fingerprint_and_log(tmp_path / "whole")
    env_states = random.Random(f"{game} {protocol} {preset}")
    killed = 0
    while killed < kills:
        run = tmp_path / f"{killed}"
        process = _forked(_train_or_resume, config, run)
        moment_s = env_states.uniform(0, lasts_s)
        time.sleep(moment_s)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:  # and not at its end already
            _in_time(config, run)
            assert fingerprint_and_log(run) == whole, f"killed after {moment_s:.3f} s"
            killed += 1
        shutil.rmtree(run, ignore_errors=True)
