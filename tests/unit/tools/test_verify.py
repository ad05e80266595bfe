"""The check of `resume`: its verdict, and what it removes at the end."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT_S, tiny_options, wait_until

COMMAND = [
    sys.executable,
    "-m",
    "ppo37",
    "verify-resume",
    "catch",
    "--preset",
    "debug",
    *tiny_options("precision", "num_envs", "num_steps", "num_minibatches", "network"),
]


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_identical() -> None:
    done = subprocess.run(
        [*COMMAND, "--updates", "20", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["identical"]
    assert verdict["unbroken"] == verdict["resumed"]
    assert verdict["resumed_from"] == 20 < verdict["killed_in"] <= verdict["updates"] == 40


@pytest.mark.slow
def test_a_stopped_check_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen([*COMMAND, "--updates", "100000"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(list(tmp_path.glob("ppo37-verify-*/*/metrics.jsonl"))))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("ppo37-verify-*"))
