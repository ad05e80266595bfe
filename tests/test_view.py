"""What a person sees of a run: a live panel in a terminal, plain lines elsewhere."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import options

from ppo37 import Config
from ppo37.config import changes, from_preset

WORDS = [sys.executable, "-m", "ppo37", "train", "catch", "--preset", "classic",
         "--total-timesteps", "650", "--device", "cpu",
         *options("seed", "num_envs", "num_steps", "num_minibatches", "network",
                  "precision")]  # fmt: skip
SHARES = r"\d+% env, \d+% act, \d+% copy, \d+% update"


def _in_a_terminal(words: list[str]) -> str:
    """What a command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # Linux says so at the end; macOS returns nothing
            break
        if not more:
            break
        said += more
    os.close(ours)
    assert process.wait() == 0, said.decode()
    return said.decode()


def test_a_terminal_shows_a_live_panel(tmp_path: Path) -> None:
    said = _in_a_terminal([*WORDS, "--out", str(tmp_path / "run")])
    assert re.search(r"expected time: about \d+ s", said)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)
    last = plain[plain.rindex("steps  ") :]
    assert "640 of 640 (100%)" in last
    assert "2,560" in last  # frames
    assert re.search(r"return +-?\d+\.\d \(last \d+ games\)", last)
    assert re.search(r"SPS +\d+", last)
    assert re.search(r"left +0 s", last)
    assert re.search(rf"time +{SHARES}", last)
    assert "\x1b[" in said  # it was drawn over


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    done = subprocess.run([*WORDS, "--out", str(tmp_path / "run")], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert re.search(rf"steps 640 of 640 \(100%\), frames 2,560, .*{SHARES}", done.stderr)
    assert "preset classic with total_timesteps 650, num_envs 4, num_steps 16, " in done.stderr


@pytest.mark.parametrize("preset", ["classic", "fast", "debug"])
def test_what_is_changed_of_a_preset_is_told(preset: str) -> None:
    whole = from_preset(preset, "pong", "cpu", seed=4, protocol="machado", precision="fp32")
    assert changes(whole) == {}
    assert changes(from_preset(preset, "pong", "cpu", num_envs=4)) == {"num_envs": 4}
    assert changes(Config(gamma=0.9)) == {"gamma": 0.9}
