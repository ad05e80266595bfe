"""Two hosts (A2): torchrun in two network namespaces, connected by a virtual cable."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import LIMIT_S, log_without_times, tiny, train_arguments, wait_until

from ppo37 import train
from ppo37.backends.ranks import process_group
from ppo37.session import checkpoint

pytestmark = pytest.mark.slow
HOSTS = {"ppo37a": "10.137.0.1", "ppo37b": "10.137.0.2"}
PORT = 29537
TIMEOUT_S = 10


@pytest.fixture
def network() -> Iterator[None]:
    """Two hosts and the cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip, of iproute2")
    with ExitStack() as stack:
        for host in HOSTS:
            if ip("netns", "add", host, check=False) != 0:
                pytest.skip("needs the right to make network namespaces (root)")
            stack.callback(ip, "netns", "del", host)
        ends = [f"{host}-veth" for host in HOSTS]
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for (host, address), end in zip(HOSTS.items(), ends, strict=True):
            ip("link", "set", end, "netns", host)
            ip("-n", host, "addr", "add", f"{address}/24", "dev", end)
            for device in (end, "lo"):
                ip("-n", host, "link", "set", device, "up")
        yield


def ip(*arguments: str, check: bool = True) -> int:
    """Run the command `ip`. Returns its exit code."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert not (check and done.returncode), done.stderr
    return done.returncode


@contextmanager
def job(*arguments: str, per_host: int = 1) -> Iterator["list[subprocess.Popen[str]]"]:
    """Start torchrun on both hosts, with `per_host` ranks on each."""
    launchers = [
        subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                host,
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                f"--nproc-per-node={per_host}",
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint={HOSTS['ppo37a']}:{PORT}",
                "--rdzv-id=test",
                # torchrun cannot find this out by the host's name: both have the same.
                f"--rdzv-conf=is_host={int(host == 'ppo37a')}",
                f"--local-addr={address}",
                "-m",
                "ppo37",
                *arguments,
            ],
            env={
                **os.environ,
                "GLOO_SOCKET_IFNAME": f"{host}-veth",
                "PPO37_TIMEOUT_S": str(TIMEOUT_S),
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for host, address in HOSTS.items()
    ]
    try:
        yield launchers
    finally:
        for launcher in launchers:
            launcher.kill()
            launcher.communicate()


@pytest.mark.parametrize("per_host", [1, 2])
def test_two_hosts_make_the_same_run_as_one_process(
    per_host: int, network: None, tmp_path: Path
) -> None:
    config = tiny(num_envs=4, num_steps=16)
    train(config, tmp_path / "one")
    with job(*train_arguments(config, tmp_path / "two"), per_host=per_host) as launchers:
        errors = [launcher.communicate(timeout=LIMIT_S)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], errors
    expected, found = (log_without_times(tmp_path / name) for name in ("one", "two"))
    assert len(found) == len(expected)
    assert found[0]["episodes"] == expected[0]["episodes"]
    assert found[0]["losses/loss"] == pytest.approx(expected[0]["losses/loss"], abs=1e-5)
    assert "finished after" in errors[0] + errors[1]


def test_a_cut_connection_ends_the_ranks_of_both_hosts(network: None, tmp_path: Path) -> None:
    """In time, whatever torchrun does. One host alone can resume. Needs an idle machine."""
    run = tmp_path / "run"
    config = tiny(num_envs=4, num_steps=16, total_timesteps=100_000 * 64)
    with job(*train_arguments(config, run), "--checkpoint-every", "5") as launchers:
        wait_until(lambda: len(checkpoint.numbered(run / "checkpoints")) > 1)
        ranks = [child for launcher in launchers for child in children(launcher.pid)]
        assert len(ranks) == 2
        ip("-n", "ppo37b", "link", "set", "ppo37b-veth", "down")
        cut = time.monotonic()
        wait_until(lambda: all(has_ended(rank) for rank in ranks))
        assert time.monotonic() - cut < TIMEOUT_S + 2 * process_group.ROLL_CALL_S + 10
    done = checkpoint.load_newest(run / "checkpoints")[0].state["update"]
    assert done >= 10
    process = subprocess.Popen(
        [sys.executable, "-m", "ppo37", "resume", str(run)], stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: (run / "metrics.jsonl").read_text().count("\n") > done + 50)
    finally:
        process.kill()
        process.wait()


def children(parent: int) -> list[int]:
    """Return the processes that a launcher has started."""
    done = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [int(number) for number in done.stdout.split()]


def has_ended(process: int) -> bool:
    """Return whether a process has ended, also if its parent has not read its exit code."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
