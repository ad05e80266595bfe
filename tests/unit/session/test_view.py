"""The view of a run: a live panel in a terminal, plain lines elsewhere."""

import dataclasses
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from conftest import catch_command, tiny_options

from ppo37 import Config
from ppo37.presets import changes, from_preset
from ppo37.session.estimate import estimate_s
from ppo37.session.metrics import LAST_100
from ppo37.session.view import ConsoleView

OPTIONS = (
    "--device=cpu",
    *tiny_options("seed", "num_envs", "num_steps", "num_minibatches", "network", "precision"),
)
SHARES = r"\d+% environments, \d+% policy, \d+% copying, \d+% learning"


def _in_a_terminal(command: list[str]) -> str:
    """Return the output of a command in a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the end on Linux; macOS returns nothing
            break
        if not more:
            break
        output += more
    os.close(ours)
    assert process.wait() == 0, output.decode()
    return output.decode()


def test_a_terminal_shows_a_live_panel(tmp_path: Path) -> None:
    output = _in_a_terminal(catch_command(tmp_path / "run", 650, *OPTIONS))
    assert "expected time: known after the first updates" in output
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    assert re.search("\u2501\\s*\r?\nsteps ", plain), "the bar has a line of its own"
    last = plain[plain.rindex("steps  ") :]
    assert "640 of 640 (100%)" in last
    assert "2,560" in last  # frames
    assert re.search(r"return +-?\d+\.\d \(mean of the last \d+ games\)", last)
    assert re.search(r"speed +\d[\d,]* agent steps/s \(SPS\)", last)
    assert re.search(r"time left +0 s", last)
    assert re.search(rf"time spent +{SHARES}", last)
    assert "\x1b[" in output  # the panel was drawn again


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        catch_command(tmp_path / "run", 650, *OPTIONS), capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert re.search(rf"steps 640 of 640 \(100%\), frames 2,560, .*{SHARES}", done.stderr)
    assert "preset classic with total_timesteps 650, num_envs 4, num_steps 16, " in done.stderr


@pytest.mark.parametrize("preset", ["classic", "fast", "debug"])
def test_changes_of_a_preset(preset: str) -> None:
    whole = from_preset(preset, "pong", "cpu", seed=4, protocol="machado", precision="fp32")
    assert changes(whole) == {}
    assert changes(from_preset(preset, "pong", "cpu", num_envs=4)) == {"num_envs": 4}
    assert changes(Config(gamma=0.9)) == {"gamma": 0.9}


def test_the_time_left_comes_from_recent_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the first updates, and not from those before the load changed."""
    clock = [0.0]
    monkeypatch.setattr("ppo37.session.view.time.monotonic", lambda: clock[0])
    shown: list[str] = []
    view = ConsoleView()
    monkeypatch.setattr(view, "note", shown.append)
    config = from_preset("debug", "catch", "cpu", total_timesteps=64 * 1000)
    view.announce(config, Path("run"), "as asked", None)
    assert "expected time: known after the first updates" in shown

    def left(update: int, took_s: float) -> str:
        clock[0] += took_s
        record = {
            "update": update,
            "agent_steps": 64 * update,
            "frames": 256 * update,
            LAST_100: None,
            "charts/SPS": 64 / took_s,
        }
        view.show(record, 0, {"rollout": 1.0, "update": 1.0, "env": 0.5, "act": 0.3})
        found = re.search(r"left ([^,]+),", shown[-1])
        assert found
        return found[1]

    output = [left(update, 10.0) for update in range(1, 101)]
    assert output[:3] == ["measuring"] * 3
    assert output[3] == "2 h 46 min", "996 updates of 10 s"
    assert output[-1] == "2 h 30 min"
    output = [left(update, 40.0) for update in range(101, 122)]
    assert output[-1] == "9 h 46 min", "879 updates of 40 s"


def test_the_expected_time_comes_from_measured_speeds() -> None:
    known = {"precision": "bf16", "kernels": "native", "threads": 2}
    config = from_preset("classic", "pong", "cpu", **known)
    stored = {"AMD with AVX512-BF16": 940.0}
    for kind, sps in stored.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ppo37.session.estimate.processor_kind", lambda _, kind=kind: kind)
            assert estimate_s(config) == pytest.approx(config.agent_steps / sps)
            shorter = dataclasses.replace(config, total_timesteps=10**6, learning_rate=1e-3)
            assert estimate_s(shorter) == pytest.approx(shorter.agent_steps / sps)
            for other in ({"num_envs": 16}, {"threads": 8}, {"network": "lstm"}, {"threads": None}):
                assert estimate_s(dataclasses.replace(config, **other)) is None
