"""Every file of a run, damaged in many ways, with every command: one line or a result.

The tests know nothing of how the commands work. Each case is a copy of a good run.
"""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import read_files

from ppo37.cli import main

FILES = [
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
    ".lock",
    *(
        f"checkpoints/00000006/{name}"
        for name in (
            "manifest.json",
            "state.json",
            "model.safetensors",
            "optimizer.safetensors",
            "actions.safetensors",
        )
    ),
]
COMMANDS = ["eval", "resume", "plot", "record", "export", "fingerprint"]


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a function that changes the content of a file."""

    def damage(path: Path) -> None:
        path.write_bytes(change(path.read_bytes() if path.is_file() else b""))

    return damage


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a function that replaces a file or folder, and moves the old one beside the run."""

    def damage(path: Path) -> None:
        path.rename(path.parents[len(path.parts) - len(RUN.parts) - 1] / "aside")
        make(path)

    return damage


RUN = Path()
DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": _instead(lambda path: None),
    "empty": _bytes(lambda _: b""),
    "half": _bytes(lambda old: old[: len(old) // 2]),
    "without its end": _bytes(lambda old: old[:-1]),
    "longer": _bytes(lambda old: old + b"\n\n{}"),
    "zeros": _bytes(lambda old: bytes(len(old))),
    "not UTF-8": _bytes(lambda _: b"\xff\xfe\x00"),
    "a flipped bit": _bytes(lambda old: old[:9] + bytes([old[9] ^ 1]) + old[10:] if old else old),
    "CRLF": _bytes(lambda old: old.replace(b"\n", b"\r\n")),
    "BOM": _bytes(lambda old: b"\xef\xbb\xbf" + old),
    "null": _bytes(lambda _: b"null\n"),
    "a list": _bytes(lambda _: b"[]\n"),
    "an object": _bytes(lambda _: b"{}\n"),
    "NaN": _bytes(lambda _: b'{"config": NaN, "update": NaN}\n'),
    "deep": _bytes(lambda _: b"[" * 100_000),
    "a folder": _instead(lambda path: path.mkdir()),
    "a file": _instead(lambda path: path.write_text("mine")),
    "a link to a file": _instead(lambda path: path.symlink_to(RUN.parent / "mine" / "file")),
    "a link to a folder": _instead(lambda path: path.symlink_to(RUN.parent / "mine")),
    "a link to nothing": _instead(lambda path: path.symlink_to(RUN.parent / "nothing")),
    "a link to itself": _instead(lambda path: path.symlink_to(path)),
    "a FIFO": _instead(os.mkfifo),
}
OTHER_THINGS = (
    "missing",
    "a folder",
    "a file",
    "a link to a file",
    "a link to a folder",
    "a link to nothing",
    "a link to itself",
    "a FIFO",
)
CASES = [
    (command, name, how)
    for command, name, how in itertools.product(COMMANDS, FILES, DAMAGE)
    # A folder has no bytes.
    if name != "checkpoints" or how in OTHER_THINGS
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name", "how"), CASES)
def test_a_damaged_file_is_one_line_and_nothing_is_lost(
    command: str,
    name: str,
    how: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    global RUN
    RUN = tmp_path / "run"
    shutil.copytree(finished_run, RUN)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    DAMAGE[how](RUN / name)
    monkeypatch.chdir(tmp_path)
    before = read_files(tmp_path)
    more = {
        "eval": ["--episodes", "2"],
        "export": ["--out", "out"],
        "record": ["--max-seconds", "1"],
    }.get(command, [])
    with pytest.raises(SystemExit) as exit_:
        main([command, "run", *more])
    out, err = capsys.readouterr()
    assert exit_.value.code in (0, 2), err
    assert "Traceback" not in err
    if exit_.value.code:
        assert len(err.splitlines()) == 1, err
        assert out == ""
    else:
        json.dumps(out, allow_nan=False)
    lost = before.keys() - read_files(tmp_path).keys()
    assert not {path for path in lost if path.name != "summary.json"}, "files were deleted"
    for path, old in before.items():
        if RUN not in path.parents or exit_.value.code:
            assert path.read_bytes() == old, path


def test_there_are_more_than_500_cases() -> None:
    assert len(CASES) > 500
