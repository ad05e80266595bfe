"""The proof that a run goes on bit for bit: it proves, and it cleans up."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import options, wait_until

WORDS = [
    sys.executable,
    "-m",
    "ppo37",
    "verify-resume",
    "catch",
    "--preset",
    "debug",
    *options("precision", "num_envs", "num_steps", "num_minibatches", "network"),
]


def test_a_killed_run_is_found_to_be_the_same() -> None:
    done = subprocess.run(
        [*WORDS, "--updates", "4", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["identical"]
    assert verdict["unbroken"] == verdict["resumed"]
    assert verdict["resumed_from"] == 4 < verdict["killed_in"] <= verdict["updates"] == 8


@pytest.mark.slow
def test_a_stopped_proof_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen([*WORDS, "--updates", "100000"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(list(tmp_path.glob("ppo37-verify-*/*/metrics.jsonl"))))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("ppo37-verify-*"))
