"""Bench and doctor: FLOP of the networks, contents of results, checks and their remedies."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu
import peers
import performance
import pytest
import speed
import torch
import watched
from conftest import tiny

from ppo37.backends.cuda_graphs import make_executables
from ppo37.cli import main
from ppo37.cli.common import config_of
from ppo37.cli.options import build_parser
from ppo37.config import Config
from ppo37.errors import UsageError
from ppo37.networks.agent import Agent
from ppo37.networks.policies import CategoricalPolicy
from ppo37.presets import from_preset
from ppo37.tools import doctor
from ppo37.tools.bench import bench, flops_per_sample, table

ATARI = (4, 84, 84)
KEYS = {
    "game",
    "preset",
    "device",
    "precision",
    "kernels",
    "precision_reason",
    "gemm_gflops_per_s",
    "env_sps",
    "act_sps",
    "learn_samples_per_s",
    "loop_sps",
    "loop_sps_min",
    "loop_sps_max",
    "loop_updates",
    "loop_update_s",
    "time_shares",
    "forward_mflop",
    "forward_backward_mflop",
    "mflop_per_agent_step",
    "roof_sps",
    "share_of_roof",
    "peak_memory_mib",
    "threads",
    "machine",
    "versions",
    "commit",
    "config",
    "seconds",
}
NAMES = [
    "python",
    "torch",
    "cuda",
    "ale-py",
    "emulator",
    "layers",
    "video",
    "plot",
    "tensorboard",
    "disk",
    "memory",
    "cores",
]


def atari_agent(num_actions: int, network: str = "nature") -> Agent:
    return Agent(ATARI, CategoricalPolicy(num_actions), network, seed=0)


def test_flops_of_the_nature_network_are_the_known_ones() -> None:
    flops = flops_per_sample(atari_agent(6), ATARI)
    assert flops.forward == 2 * (3_276_800 + 2_654_208 + 1_806_336 + 1_605_632 + 3_584)
    assert flops.forward / 1e6 == pytest.approx(18.69, abs=0.005)
    assert flops.forward_backward / 1e6 == pytest.approx(49.53, abs=0.005)
    per_step = flops.forward + Config().update_epochs * flops.forward_backward
    assert per_step / 1e6 == pytest.approx(216.8, abs=0.05)


def test_flops_of_sequences_and_of_other_networks_are_counted() -> None:
    """2 FLOP for each product by hand; the first layers need no gradient of the observations."""
    agent = Agent((11,), CategoricalPolicy(3), "lstm", seed=0, obs_dtype=torch.float32)
    first, rest = 11 * 64, 64 * 64 + 64 * 512 + 128 * (3 + 1)
    recurrent = 128 * 512  # the state before the first step needs no gradient
    assert flops_per_sample(agent, (11,), 4) == (
        2 * (first + rest + recurrent),
        2 * (2 * first + 3 * rest + 3 * recurrent) - 2 * recurrent // 4,
    )
    agent = Agent((4, 10, 10), CategoricalPolicy(6), "impala", seed=0)
    cells = ((4, 16, 100), (16, 32, 25), (32, 32, 9))  # inputs, outputs, positions
    convolutions = [9 * i * o * n for i, o, n in cells]
    blocks = [4 * 9 * o * o * m for (_, o, _), m in zip(cells, (25, 9, 4), strict=True)]
    products = sum(convolutions) + sum(blocks) + 32 * 4 * 256 + 256 * 7
    assert flops_per_sample(agent, (4, 10, 10)) == (
        2 * products,
        6 * products - 2 * convolutions[0],
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Run a very small bench. It sets the threads of this process, which are restored."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # On a processor without bf16 a product of large matrices takes a minute.
        patch.setattr("ppo37.tools.bench.GEMM_SIDES", {"cpu": (64, 128)})
        yield bench(from_preset("debug", "catch", "cpu", precision="fp32"), seconds=0.2)
    torch.set_num_threads(threads)
    assert not list(folder.iterdir()), "a bench leaves no files"


def test_bench_reports_everything_as_plain_values(result: dict[str, Any]) -> None:
    assert set(result) == KEYS
    assert json.loads(json.dumps(result)) == result
    assert (result["game"], result["preset"], result["precision"]) == ("catch", "debug", "fp32")
    assert set(result["gemm_gflops_per_s"]) == {"fp32", "bf16"}
    assert set(result["time_shares"]) == {"env", "act", "copy", "update"}


def test_the_figures_of_a_bench_fit_together(result: dict[str, Any]) -> None:
    assert min(result["gemm_gflops_per_s"].values()) > 0
    assert result["peak_memory_mib"] > 50
    assert len(result["loop_update_s"]) == result["loop_updates"] >= 3
    assert sum(result["time_shares"].values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in result["time_shares"].values())
    assert 0 < result["loop_sps_min"] <= result["loop_sps"] <= result["loop_sps_max"]

    flops = 1e6 * result["mflop_per_agent_step"]
    peak = 1e9 * result["gemm_gflops_per_s"][result["precision"]]
    assert result["roof_sps"] == pytest.approx(1 / (flops / peak + 1 / result["env_sps"]))
    assert 0 < result["share_of_roof"] < 1.2


def test_the_table_of_a_bench_shows_its_figures(result: dict[str, Any]) -> None:
    text = table(result)
    for shown in (
        f"{result['loop_sps']:,.0f} SPS",
        f"{result['roof_sps']:,.0f} SPS",
        result["machine"]["cpu"],
        result["versions"]["torch"],
        "fp32",
    ):
        assert shown in text
    assert table({**result, "commit": None})


def test_the_memory_is_checked_without_pytorch() -> None:
    """PyTorch may be broken."""
    code = (
        "import sys; sys.modules['torch'] = None; from ppo37.tools import doctor; "
        "check = doctor._memory(); assert check.ok and 'GiB' in check.detail, check"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_bench_needs_a_time(seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds"):
        bench(from_preset("debug", "catch", "cpu"), seconds)


def test_a_bench_names_the_nearest_game(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "--game", "brekout"])
    assert exit_.value.code == 2
    assert "breakout" in capsys.readouterr().err


def test_doctor_finds_no_fault_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checks = doctor.doctor()
    assert [check.name for check in checks] == NAMES
    assert all(check.ok for check in checks), doctor.table(checks)
    assert all(check.detail for check in checks)
    text = doctor.table(checks)
    assert all(name in text for name in NAMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("check", "module", "remedy"),
    [
        (doctor._video, "imageio_ffmpeg", "pip install 'ppo37[video]'"),
        (doctor._video, "PIL", "pip install 'ppo37[video]'"),
        (doctor._video, "pygame", "pip install 'ppo37[video]'"),
        (doctor._plot, "matplotlib", "pip install matplotlib"),
    ],
)
def test_a_missing_optional_module_is_a_note_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, check: Any, module: str, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    found = check()
    assert found.ok
    assert module in found.detail
    assert remedy in found.remedy
    text = doctor.table([found])
    assert text.startswith("note")
    assert found.remedy in text


@pytest.mark.parametrize("module", ["tensorboard", "ale_py"])
def test_a_missing_required_module_is_a_failure_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    name = module.replace("_", "-")
    check = {"tensorboard": doctor._tensorboard, "ale-py": doctor._ale}[name]
    found = doctor._attempt(name, check, f"pip install {name}")
    assert not found.ok
    assert module in found.detail
    assert f"pip install {name}" in found.remedy.replace("'", "")
    assert doctor.table([found]).startswith("FAIL")


def test_an_old_emulator_and_a_full_disk_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_ALE", (99,))
    monkeypatch.setattr(doctor, "LEAST_DISK_BYTES", 1 << 70)
    for check in (doctor._ale(), doctor._disk()):
        assert not check.ok
        assert check.remedy


def test_little_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=1 << 30, available=1 << 20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    found = doctor._memory()
    assert found.ok
    assert "num-envs" in found.remedy


def test_no_check_can_raise() -> None:
    def broken() -> doctor.Check:
        raise OSError("no\nsuch   thing")

    found = doctor._attempt("disk", broken, "use another disk")
    assert found == doctor.Check("disk", False, "OSError: no such thing", "use another disk")


def test_the_comparison_is_with_the_faster_sb3_and_within_rounds() -> None:
    speeds = {
        "ppo37": [200.0, 330.0, 100.0],
        "SB3, a": [100.0, 110.0, 25.0],
        "SB3, b": [90.0, 80.0, 70.0],
    }
    figures = [
        {
            "arm": arm,
            "sps": sps,
            "peak_memory_mib": sps,
            "precision": "fp32",
            "kernels": "native",
            "threads": 2,
        }
        for round_speeds in zip(*speeds.values(), strict=True)
        for arm, sps in zip(speeds, round_speeds, strict=True)
    ]
    summary = peers.summarize(figures, {"fp32": 800.0, "bf16": 1600.0})
    assert summary["compared_with"] == "SB3, a"
    ours = summary["arms"]["ppo37"]
    assert ours["sps"] == {"median": 200.0, "lowest": 100.0, "highest": 330.0}
    assert ours["ratio"] == {"median": 3.0, "lowest": 2.0, "highest": 4.0}
    assert ours["share_of_roof"] == 0.25
    assert ours["peak_memory_mib"] == 330.0

    machine = {"cpu": "some CPU", "cores": 2, "isa": "AVX512"}
    roof = {
        "gemm_gflops_per_s": {"fp32": 200.0, "bf16": 400.0},
        "env_sps": 3000.0,
        "sps": {"fp32": 800.0, "bf16": 1600.0},
    }
    result = {
        "summary": summary,
        "roof": roof,
        "machine": machine,
        "versions": {"torch": "1"},
        "commit": None,
        "rounds": 3,
        "updates": 10,
        "warm_up_updates": 2,
        "batch_size": 1024,
    }
    lines = peers.markdown(result).splitlines()
    ours = "ppo37 | fp32 by native kernels | 2"
    assert f"| {ours} | 200 (100 to 330) | 3.00 (2.00 to 4.00) | 25% | 330 |" in lines


def test_our_side_of_the_comparison_times_every_update() -> None:
    times_s, chosen = peers.measure_ppo37("fp32 torch", tiny(total_timesteps=64 * 3))
    assert len(times_s) == 4
    assert times_s == sorted(times_s)
    assert chosen == {"precision": "fp32", "kernels": "torch"}


@pytest.mark.parametrize(
    ("settings", "rounds", "message"),
    [
        ({"network": "lstm"}, 1, "network nature only, not lstm"),
        ({"protocol": "machado"}, 1, "protocol classic only"),
        ({}, 0, "rounds must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    settings: dict[str, Any], rounds: int, message: str
) -> None:
    config = from_preset("classic", "breakout", "cpu", **settings)
    with pytest.raises(UsageError, match=message):
        peers.compare(config, rounds)


def test_the_comparison_reports_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(peers, "version", missing)
    with pytest.raises(UsageError, match=r"pip install 'ppo37\[bench\]'"):
        peers.compare(from_preset("classic", "breakout", "cpu"), 1)


def test_the_memory_of_a_process_tree_counts_this_process() -> None:
    used = watched.process_tree_mib(os.getpid())
    assert used is not None
    assert 50 < used < 1e5
    assert watched.process_tree_mib(2**22 + 1) is None, "no process has this number"


def test_the_page_of_figures_is_made_from_them() -> None:
    assert performance.PAGE.read_text() == performance.page()


def test_arms_are_compared_within_rounds() -> None:
    speeds = {"one": [100.0, 200.0, 50.0], "two": [150.0, 100.0, 60.0]}
    figures = [
        {"round": number, "arm": arm, "sps": sps, "peak_memory_mib": 10 * sps, "layers": "bf16"}
        for arm, of_rounds in speeds.items()
        for number, sps in enumerate(of_rounds)
    ]
    rows = speed.summary(figures)
    assert rows["one"]["ratio"] == rows["one"]["lowest_ratio"] == 1.0
    assert rows["two"] == {
        "layers": "bf16",
        "sps": 100.0,
        "ratio": 1.2,
        "lowest_ratio": 0.5,
        "highest_ratio": 1.5,
        "peak_memory_mib": 1500.0,
    }
    assert "| two | bf16 | 100 | 1.20 (0.50 to 1.50) | 1,500 |" in speed.markdown({"summary": rows})


@pytest.mark.parametrize(
    ("name", "isa", "short"),
    [
        ("AMD EPYC", "AVX512", "epyc"),
        ("Intel(R) Xeon(R) Processor", "AVX512", "xeon"),
        ("AMD EPYC", "AVX2", "epyc_avx2"),
        ("", "DEFAULT", "unknown_default"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "AVX512", "ryzen"),
    ],
)
def test_results_are_named_after_the_processor(name: str, isa: str, short: str) -> None:
    assert speed.processor({"cpu": name, "isa": isa}) == short


@pytest.mark.parametrize("name", speed.SUITES)
def test_every_arm_can_be_started(name: str) -> None:
    """The parser accepts the command line of each arm."""
    for arm in speed.SUITES[name]:
        options = build_parser().parse_args(["train", "breakout", *arm.settings.split()])
        assert config_of(options).game == "breakout"
        assert speed.launcher(arm)[-1].startswith(("--nproc", "/"))


@pytest.mark.slow
def test_the_script_for_a_gpu_stops_and_resumes(tmp_path: Path) -> None:
    """Its trial, without a GPU."""
    plain, recorded = (gpu.measured_loop(8, without, trial=True) for without in (True, False))
    assert min(plain["loop_sps"], recorded["loop_sps"]) > 0
    assert gpu.start.make_executables is make_executables
    goal = gpu.Goal("goal", "catch", "--preset debug", 1, -1.0)
    over = gpu.Times(time.monotonic() + 20, trial=True)
    assert gpu.pursue(goal, tmp_path, over) is None  # too little time to start
    times = gpu.Times(time.monotonic() + 300, trial=True)
    found = gpu.pursue(goal, tmp_path, times)
    assert found is not None
    assert found["figures"][0]["agent_steps"] == 256
    assert found["figures"][0]["reached"].endswith("steps")
    assert found["markdown"].count("| 256 |") == 1
