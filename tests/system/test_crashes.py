"""Crashes at any moment: the run can be resumed, and ends like a run without a crash."""

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
from conftest import SMALL_STATE, fingerprint_and_log, run_start, tiny

from ppo37 import Config, resume, train
from ppo37.errors import RunError, UsageError
from ppo37.presets import from_preset
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
    """Flip some bits of every byte, and truncate every file to every length."""
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
    """A disk that is full after `room` writes and syncs; the next write stops in the middle."""

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
def test_a_run_can_be_resumed_after_the_disk_was_full_at_any_time(
    every: int, tmp_path: Path
) -> None:
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
    print(f"full at each {every} of {disk.times} times: every run was resumed")


# Crashes between any two steps


class Crashes:
    """A check, before every step that changes the disk, of all states that a crash could leave.

    Bytes that were written to a file since its last sync may be complete, half, zeros or missing.
    A file that was never synced may be missing. Nothing may be deleted while a new name may still
    be missing.
    """

    def __init__(self, live: Path, copy: Path) -> None:
        self.states = 0
        self._live, self._copy = live, copy
        self._synced: dict[int, bytes] = {}  # content at the last sync, by inode
        self._unsynced: set[int] = set()  # folders with new names, by inode
        self._checking = False

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        fsync = os.fsync

        def sync(handle: int) -> None:
            self._check_all()
            fsync(handle)
            number = os.fstat(handle).st_ino
            self._unsynced.discard(number)
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
            patch.setattr(owner, name, self._checking_before(getattr(owner, name)))

    def _checking_before(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self._check_all()
            if not self._checking and genuine.__name__ in ("rmdir", "unlink"):
                assert not self._unsynced, f"{genuine.__name__} {arguments} before a sync"
            answer = genuine(*arguments, **options)
            if genuine.__name__ in ("rename", "replace"):
                self._unsynced.add(Path(arguments[1]).parent.stat().st_ino)
            return answer

        return step

    def _check_all(self) -> None:
        if self._checking or not self._live.exists():
            return
        self._checking = True
        self._check_one(None, None)
        for path in self._files():
            content = path.read_bytes()
            synced = self._synced.get(path.stat().st_ino, b"")
            if not content.startswith(synced):
                synced = b""  # a new file in the place of an old one
            new = content[len(synced) :]
            left = [synced + new[: len(new) // 2], synced, synced + bytes(len(new))] if new else []
            for each in [*left, None] if new and not synced else left:
                self._check_one(path.relative_to(self._live), each)
        self._checking = False

    def _files(self) -> list[Path]:
        """Return the files that matter: not TensorBoard's events, not the lock."""
        ignored = ("events.", ".lock")
        files = (path for path in self._live.rglob("*") if path.is_file())
        return [path for path in files if not path.name.startswith(ignored)]

    def _check_one(self, changed: Path | None, left: bytes | None) -> None:
        """Check a copy of the run in which one file has other content, or is missing."""
        shutil.copytree(self._live, self._copy)
        if changed is not None:
            path = self._copy / changed
            path.unlink() if left is None else path.write_bytes(left)
        _require_usable(self._copy)
        shutil.rmtree(self._copy)
        self.states += 1


def _require_usable(run: Path) -> None:
    """Check that a run can be started, or resumed from a checkpoint with its whole log."""
    if not directory.is_run(run):
        directory.require_new(run)
        return
    directory.read_config(run)
    if checkpoint.numbered(run / "checkpoints"):
        saved, warnings = checkpoint.load_newest(run / "checkpoints")
        assert not warnings
        update = saved.state["update"]
        logger = JsonLines()
        logger.start(run_start(run, update))
        logger.close()
        assert [r["update"] for r in read_metrics(run)] == list(range(1, update + 1))


def test_a_crash_between_any_two_steps_leaves_a_usable_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes(tmp_path / "run", tmp_path / "copy")
    crashes.watch(monkeypatch)
    train(tiny(), tmp_path / "run", checkpoint_every=1)
    monkeypatch.undo()
    assert crashes.states > 200
    print(f"{crashes.states} states, all usable")


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
"""Eight updates, in about a second, with every part of a long run."""

PRELOADED = [
    "ppo37.loop",
    "ppo37.envs.atari.env",
    "torch.utils.tensorboard",
    "ale_py.vector_env",
    "gymnasium.vector",
    "pytest",
]


def _start_forked(work: Callable[..., Any], *arguments: Any) -> multiprocessing.Process:
    """Start a process that has the imports already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


def _complete(config: Config, run: Path) -> float:
    """Complete a run in a new process. Returns the seconds it took."""
    started = time.monotonic()
    process = _start_forked(_train_or_resume, config, run)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 50])
@pytest.mark.parametrize(
    ("game", "protocol", "preset"),
    [
        ("breakout", "classic", "classic"),
        ("space_invaders", "machado", "fast"),
        ("breakout", "machado", "fast"),
        ("space_invaders", "classic", "classic"),
    ],
)
def test_a_run_killed_at_any_moment_ends_like_one_without_a_kill(
    game: str, protocol: str, preset: str, kills: int, tmp_path: Path
) -> None:
    config = from_preset(preset, game, "cpu", protocol=protocol, **KILLED)
    lasts_s = _complete(config, tmp_path / "whole")
    whole = fingerprint_and_log(tmp_path / "whole")
    rng = random.Random(f"{game} {protocol} {preset}")
    killed = 0
    while killed < kills:
        run = tmp_path / f"{killed}"
        process = _start_forked(_train_or_resume, config, run)
        delay_s = rng.uniform(0, lasts_s)
        time.sleep(delay_s)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:  # it had not ended already
            _complete(config, run)
            assert fingerprint_and_log(run) == whole, f"killed after {delay_s:.3f} s"
            killed += 1
        shutil.rmtree(run, ignore_errors=True)
