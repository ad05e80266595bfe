"""The number of threads of a run; other work on the machine does not change the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import fingerprint_and_log, tiny, tiny_options

from ppo37 import resume, train
from ppo37.backends import device
from ppo37.backends.device import free_memory_bytes, quota_cores, usable_cores
from ppo37.cli import let_waiting_threads_sleep
from ppo37.session.directory import read_config

BUSY = [sys.executable, "-c", "while True: pass"]


def group(root: Path, lines: str, files: dict[str, str]) -> Path:
    """Make files of a system with these control groups."""
    for name, text in {"proc/self/cgroup": lines, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        # The smallest of a group and the groups around it; the top group has no quota.
        (
            "0::/a/b\n",
            {
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            3,
        ),
        # In a container the path is the host's, which does not exist here.
        ("0::/docker/4a\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            "4:cpu,cpuacct:/job\n0::/\n",
            {
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "50000\n",
            },
            5,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
        ("", {}, None),
    ],
)
def test_cpu_quotas_are_read(
    lines: str, files: dict[str, str], cores: int | None, tmp_path: Path
) -> None:
    assert quota_cores(group(tmp_path, lines, files)) == cores


@pytest.mark.parametrize(
    ("lines", "files", "left"),
    [
        (
            "0::/job/step\n",
            {
                "sys/fs/cgroup/job/memory.max": "4000000\n",
                "sys/fs/cgroup/job/memory.current": "3500000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 1\ninactive_file 300000\nslab 7\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
            },
            800_000,
        ),
        (
            "4:memory:/job\n",
            {
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "5000000\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "4900000\n",
                "sys/fs/cgroup/memory/job/memory.stat": "cache 9\ntotal_inactive_file 50000\n",
            },
            150_000,
        ),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "1000\n"}, None),  # not all can be read
        ("", {}, None),
    ],
)
def test_limits_of_memory_are_read(
    lines: str, files: dict[str, str], left: int | None, tmp_path: Path
) -> None:
    found = free_memory_bytes(group(tmp_path, lines, files))
    assert found == left if left else found > 10_000_000


def test_the_smallest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cores_of_process", lambda: set(range(6)))
    monkeypatch.setattr(device, "quota_cores", lambda: 4)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for text, cores in (("", 4), ("3", 3), ("3,1", 3), ("9", 4), ("many", 4), ("0", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert usable_cores() == cores, text
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun sets OMP_NUM_THREADS to 1")
    assert usable_cores() == 4


def test_the_waiting_of_openmp_is_set_unless_the_user_has_set_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    let_waiting_threads_sleep()
    assert (os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"]) == ("1000", "200")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    let_waiting_threads_sleep()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_number_of_threads_is_recorded_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppo37.backends.ranks.process_group.usable_cores", lambda: 3)
    train(tiny(threads=None), tmp_path / "run", checkpoint_every=2)
    assert read_config(tmp_path / "run").threads == 3
    train(tiny(threads=2), tmp_path / "asked")
    assert read_config(tmp_path / "asked").threads == 2

    seen: list[int] = []
    genuine = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (seen.append(n), genuine(n))[1])
    monkeypatch.setattr("ppo37.backends.ranks.process_group.usable_cores", lambda: 1)
    resume(tmp_path / "run" / "checkpoints" / "00000004")
    assert seen[0] == 3, "the recorded number, not the cores that there are now"


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_other_work_on_the_machine_does_not_change_a_run(kernels: str, tmp_path: Path) -> None:
    """A run beside three busy processes ends exactly like a run alone."""
    arguments = [
        "train",
        "breakout",
        *tiny_options("seed", "num_minibatches", "precision"),
        "--num-envs",
        "2",
        "--num-steps",
        "32",
        "--total-timesteps",
        "64",
        "--network",
        "nature_half",
        "--kernels",
        kernels,
    ]

    def trained(name: str) -> tuple[str, list[dict[str, object]]]:
        command = [sys.executable, "-m", "ppo37", *arguments, "--threads", "2"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)], capture_output=True, text=True
        )
        if "native kernels" in done.stderr and done.returncode == 2:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
        return fingerprint_and_log(tmp_path / name)

    alone = trained("alone")
    busy = [subprocess.Popen(BUSY) for _ in range(3)]
    try:
        assert trained("beside") == alone
    finally:
        for process in busy:
            process.kill()
            process.wait()
