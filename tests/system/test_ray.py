"""Suites on a Ray cluster of two nodes on this machine; `make test-extras` runs them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import (
    LIMIT_S,
    child_environment,
    fingerprint_and_log,
    suite_command,
    tiny_plan,
    wait_for_first_update,
)
from test_extras import needed

ray = needed("ray")

PORT = 6397
RAY = [str(Path(sys.executable).parent / "ray")]
SMALL = ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000"]
PLAN = tiny_plan("3-6", total_timesteps=12_800)


def command(folder: Path, *arguments: str) -> list[str]:
    return suite_command(folder, PLAN, *arguments)


def call(*arguments: str) -> None:
    subprocess.run([*RAY, *arguments], check=True, capture_output=True, timeout=LIMIT_S)


def nodes() -> set[psutil.Process]:
    """Return the processes that are nodes of Ray on this machine."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error, IndexError, TypeError):
            if process.info["cmdline"][0].endswith("raylet/raylet"):
                found.add(process)
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[psutil.Process]:
    """A cluster of two nodes with a core each. Yields the node that is not the head."""
    before = nodes()
    if before:
        pytest.skip("a Ray cluster runs on this machine")
    call("start", "--head", f"--port={PORT}", "--include-dashboard=false", *SMALL)
    try:
        head = nodes()
        call("start", f"--address=127.0.0.1:{PORT}", *SMALL)
        (second,) = nodes() - head
        yield second
    finally:
        call("stop", "--force")


def test_a_lost_node_does_not_change_the_result(cluster: psutil.Process, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--out", str(tmp_path / "lost"), "--ray", f"127.0.0.1:{PORT}"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    for seed in (3, 4):
        wait_for_first_update(tmp_path / "lost" / f"catch__s{seed}")
    os.kill(cluster.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert out.startswith("| variant | game")
    whole = tmp_path / "whole"
    done = subprocess.run(
        command(tmp_path, "--out", str(whole)), capture_output=True, env=child_environment()
    )
    assert done.returncode == 0, done.stderr
    for seed in (3, 4, 5, 6):
        name = f"catch__s{seed}"
        assert fingerprint_and_log(tmp_path / "lost" / name) == fingerprint_and_log(whole / name)


def test_a_signal_leaves_checkpoints(cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "suite"
    process = subprocess.Popen(
        command(tmp_path, "--out", str(path), "--ray", f"127.0.0.1:{PORT}", "--seeds", "3-3"),
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    wait_for_first_update(path / "catch__s3")
    process.terminate()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143, err
    assert list((path / "catch__s3" / "checkpoints").glob("0*"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_address_that_does_not_answer(address: str, tmp_path: Path) -> None:
    out = tmp_path / "suite"
    done = subprocess.run(
        command(tmp_path, "--out", str(out), "--ray", address),
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert address in done.stderr.splitlines()[-1]
    assert not out.exists()
