"""Speed and memory of `ppo37 train` in different configurations.

    python benchmarks/speed.py SUITE        variants | envs | network | ranks
    python benchmarks/speed.py shared       with other processes; see below

A suite has a few arms: other actions and observations, more environments, larger networks, several
ranks. Each round measures every arm in turn, in new processes and by the usual command, so that
changes of the machine's speed affect all arms. The ratio of an arm is the median of its ratios to
the first arm of the same round. The first updates are not counted, nor is the last, after which the
run is saved. Prints a Markdown table and writes every figure to benchmarks/results/. Run nothing
else at the same time; the load average before each measurement is recorded.

`shared` trains a preset (without `target_kl`) alone, with busy processes that it starts, and in
several runs at once, for some seconds each; the runs share all cores, or each has its own. This is
what `ppo37 suite` chooses by. `--before CHECKOUT` measures other code in the same rounds, all of
its arms in the first `--before-rounds`; ratios are then to the speed of that code alone.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import watched

from ppo37.backends.device import commit, cores_of_process, describe_machine, versions
from ppo37.config import describe_layers
from ppo37.presets import from_preset
from ppo37.session.directory import METRICS, read_config
from ppo37.session.metrics import read_metrics
from ppo37.suites.engine import shares_of_cores
from ppo37.tools.processes import search_path

RESULTS = Path(__file__).parent / "results"
GAME = "breakout"
WARM_UP_UPDATES = 1


class Arm(NamedTuple):
    """Settings of `ppo37 train`, the number of processes, and the cores they may use.

    A minibatch has 256 samples for any number of environments, so that the work per step is equal.
    """

    name: str
    settings: str = ""
    envs: int = 8
    ranks: int = 1
    cores: int | None = None


SUITES = {
    "variants": [
        Arm("classic"),
        Arm("lstm", "--network lstm"),
        Arm("joystick", "--action-space joystick"),
        Arm("joystick, masked", "--action-space joystick --mask-actions"),
        Arm("continuous", "--action-space continuous"),
        Arm("ram", "--observation ram"),
        Arm("continuous, ram", "--action-space continuous --observation ram"),
    ],
    "envs": [
        Arm("8 environments"),
        Arm("32 environments", envs=32),
        Arm("128 environments", envs=128),
    ],
    "network": [
        Arm("nature"),
        Arm("nature_half", "--network nature_half"),
        Arm("lstm", "--network lstm"),
    ],
    "ranks": [
        Arm("1 rank, 1 core", cores=1),
        Arm("1 rank, 2 cores", cores=2),
        Arm("2 ranks, 2 cores", ranks=2, cores=2),
        Arm("1 rank, 1 core, 32 environments", envs=32, cores=1),
        Arm("2 ranks, 2 cores, 32 environments", envs=32, ranks=2, cores=2),
    ],
}


class Load(NamedTuple):
    """A number of runs at once, and of busy processes.  apart: each run has its own cores."""

    runs: int = 1
    apart: bool = False
    busy: int = 0
    nice: int = 0


def loads(cores: int) -> dict[str, Load]:
    """Return the loads that are measured on a machine with so many cores, by name."""
    apart = {}
    for runs in (2**power for power in range(1, cores.bit_length())):
        each = "one core" if runs == cores else f"{cores // runs} cores"
        apart[f"{runs} trainings at once, {each} each"] = Load(runs, apart=True)
    return {
        ALONE: Load(),
        "2 trainings at once, together": Load(runs=2),
        **apart,
        "beside one busy process": Load(busy=1),
        "beside one at nice 19": Load(busy=1, nice=19),
        "beside two busy processes": Load(busy=2),
    }


ALONE = "alone"
START_LIMIT_S = 120.0
BUSY = [sys.executable, "-c", "while True: pass"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=[*SUITES, "shared"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--updates", type=int, default=3, help="counted updates of each measurement"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="length of each measurement of shared"
    )
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="for shared: other code")
    parser.add_argument("--preset", default="fast", help="for shared; default fast")
    parser.add_argument("--device", default="cpu", help="for shared; default cpu")
    parser.add_argument(
        "--only", metavar="TEXT", help="for shared: alone, and loads with this text"
    )
    parser.add_argument(
        "--before-rounds",
        type=int,
        default=3,
        help="rounds in which all arms of the other code are measured",
    )
    options = parser.parse_args()
    if min(options.rounds, options.updates) < 1:
        parser.error("--rounds and --updates must be at least 1")
    if options.suite == "shared":
        shared(options)
        return
    arms = [arm for arm in SUITES[options.suite] if (arm.cores or 1) <= len(cores_of_process())]
    figures = []
    for number in range(1, options.rounds + 1):
        for arm in arms:
            figure = measure(arm, options.updates)
            figures.append({"round": number, "arm": arm.name, **figure})
            print(f"round {number}, {arm.name}: {figure['sps']:,.0f} SPS", file=sys.stderr)
    rows = summary(figures)
    print(markdown({"summary": rows}))
    write(
        options,
        "classic",
        {
            "updates": options.updates,
            "arms": {arm.name: arm._asdict() for arm in arms},
            "summary": rows,
            "measurements": figures,
        },
    )


def write(options: argparse.Namespace, preset: str, figures: dict[str, Any]) -> None:
    """Write the figures of a suite and their conditions to a file."""
    machine = describe_machine()
    result = {
        "suite": options.suite,
        "game": GAME,
        "preset": preset,
        "rounds": options.rounds,
        "machine": machine,
        "versions": versions(),
        "commit": commit(),
        **figures,
    }
    path = options.out or RESULTS / f"{options.suite}_{processor(machine)}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


def shared(options: argparse.Namespace) -> None:
    """Measure every load in turn, print a table and write the figures."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that started processes are ended
    here = Path(__file__).parents[1] / "src"
    before = options.before and (options.before / "src").resolve()
    figures = []
    chosen = {
        name: load
        for name, load in loads(len(cores_of_process())).items()
        if name == ALONE or not options.only or options.only in name
    }
    for number in range(1, options.rounds + 1):
        for name, load in chosen.items():
            codes = {"now": here}
            if before and (name == ALONE or number <= options.before_rounds):
                codes = {"before": before, **codes}
            for code, path in codes.items():
                sps = measure_load(path, load, options)
                figures.append({"round": number, "code": code, "load": name, "sps": sps})
                print(f"round {number}, {code}, {name}: {sum(sps):,.0f} SPS", file=sys.stderr)
    rows = shared_summary(figures)
    print(shared_markdown(rows))
    write(
        options,
        options.preset,
        {
            "device": options.device,
            "seconds": options.seconds,
            "summary": rows,
            "measurements": figures,
        },
    )


def measure_load(source: Path, load: Load, options: argparse.Namespace) -> list[float]:
    """Return the agent steps a second of each run, after all have made their first update.

    A run that makes no update in the time gets the speed of one update: an upper bound.
    """
    environment = {**os.environ, "PYTHONPATH": search_path([str(source)])}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:

        def start(command: list[str]) -> None:
            none = subprocess.DEVNULL
            process = subprocess.Popen(
                command, env=environment, stdout=none, stderr=none, cwd=folder
            )
            started.callback(process.wait)
            started.callback(process.kill)

        runs = [Path(folder) / str(number) for number in range(load.runs)]
        # With target_kl the number of epochs would depend on chance.
        command = (
            f"-m ppo37 train {GAME} --preset {options.preset} --device {options.device} "
            "--target-kl none --out"
        )
        shares = shares_of_cores(load.runs) if load.apart else [[]] * load.runs
        for run, cores in zip(runs, shares, strict=True):
            pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
            start([*pinned, sys.executable, *command.split(), str(run)])
        deadline = time.monotonic() + START_LIMIT_S
        while not all(map(records_of, runs)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(load.busy):
            start([*(["nice", "-n", str(load.nice)] if load.nice else []), *BUSY])
        before = [len(records_of(run)) for run in runs]
        time.sleep(options.seconds)
        batch = read_config(runs[0]).batch_size
        return [
            speed(records_of(run)[max(first - 1, 0) :], batch, options.seconds)
            for run, first in zip(runs, before, strict=True)
        ]


def records_of(run: Path) -> list[dict[str, Any]]:
    """Return the logged updates of a run, which may have none yet."""
    return read_metrics(run) if (run / METRICS).exists() else []


def speed(records: list[dict[str, Any]], batch: int, seconds: float) -> float:
    """Return the agent steps a second between the first and the last of some updates of `batch`."""
    if len(records) < 2:
        return batch / seconds
    return batch * (len(records) - 1) / (records[-1]["wall_s"] - records[0]["wall_s"])


def shared_summary(figures: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the median speed of each code and load, and its ratio to the reference alone.

    The ratio is the median of those in each round, with a 95% interval of the median.
    """
    reference = "before" if any(f["code"] == "before" for f in figures) else "now"
    base = {
        f["round"]: sum(f["sps"]) for f in figures if (f["code"], f["load"]) == (reference, ALONE)
    }
    rows = {}
    for code, load in dict.fromkeys((f["code"], f["load"]) for f in figures):
        own = [f for f in figures if (f["code"], f["load"]) == (code, load)]
        ratios = sorted(sum(f["sps"]) / base[f["round"]] for f in own)
        low, high = median_interval(ratios)
        rows[f"{code}, {load}" if reference == "before" else load] = {
            "sps": statistics.median(sum(f["sps"]) for f in own),
            "rounds": len(own),
            "ratio": statistics.median(ratios),
            "low": low,
            "high": high,
        }
    return rows


def median_interval(ordered: list[float], level: float = 0.95) -> tuple[float, float]:
    """Return two order statistics with the median between them at this probability or more.

    With fewer than 6 values they are the lowest and the highest, at a lower probability.
    """
    count = len(ordered)
    cut = 0
    while 1 - 2 * sum(math.comb(count, i) for i in range(cut + 2)) / 2**count >= level:
        cut += 1
    return ordered[cut], ordered[count - 1 - cut]


def shared_markdown(rows: dict[str, dict[str, Any]]) -> str:
    """Format the summary of `shared` as a table."""
    lines = [
        "| | agent steps/s | ratio (95% interval of the median) | rounds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['sps']:,.0f} | {row['ratio']:.2f} ({row['low']:.2f} to "
        f"{row['high']:.2f}) | {row['rounds']} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def processor(machine: dict[str, Any]) -> str:
    """Return a short name of a machine's processor, without its maker, for file names."""
    parts = machine["cpu"].lower().replace("(r)", "").split()
    short = next((part for part in parts if part not in ("amd", "intel")), "unknown")
    # Processors of one name may be of different generations.
    return short if machine["isa"] == "AVX512" else f"{short}_{machine['isa'].lower()}"


def measure(arm: Arm, updates: int) -> dict[str, Any]:
    """Measure agent steps a second and peak memory of one arm, in separate processes."""
    minibatches = arm.envs // 2
    config = from_preset("classic", GAME, "cpu", num_envs=arm.envs, num_minibatches=minibatches)
    batch = config.batch_size
    steps = (WARM_UP_UPDATES + updates + 1) * batch
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = (
            f"-m ppo37 train {GAME} --preset classic --device cpu --total-timesteps {steps} "
            f"--num-envs {arm.envs} --num-minibatches {minibatches} {arm.settings}"
        )
        _, peak = watched.run([*launcher(arm), *command.split(), "--out", str(run)])
        records = read_metrics(run)
        config = read_config(run)
    ended_s = [record["wall_s"] for record in records[WARM_UP_UPDATES - 1 : -1]]
    return {
        "sps": batch * updates / (ended_s[-1] - ended_s[0]),
        "peak_memory_mib": peak,
        "layers": describe_layers(config.precision, config.kernels),
        "load_before": load,
    }


def launcher(arm: Arm) -> list[str]:
    """Return the command that starts `python` for an arm."""
    cores = sorted(cores_of_process())[: arm.cores]
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if arm.cores else []
    if arm.ranks == 1:
        return [*pinned, sys.executable]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arm.ranks}"]
    return [*pinned, sys.executable, *torchrun]


def summary(figures: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each arm's median speed, its ratios to the first arm, and its peak memory."""
    names = list(dict.fromkeys(figure["arm"] for figure in figures))
    base = {f["round"]: f["sps"] for f in figures if f["arm"] == names[0]}
    rows = {}
    for name in names:
        own = [f for f in figures if f["arm"] == name]
        ratios = [f["sps"] / base[f["round"]] for f in own]
        peaks = [f["peak_memory_mib"] for f in own]
        rows[name] = {
            "layers": " / ".join(sorted({f["layers"] for f in own})),
            "sps": statistics.median(f["sps"] for f in own),
            "ratio": statistics.median(ratios),
            "lowest_ratio": min(ratios),
            "highest_ratio": max(ratios),
            "peak_memory_mib": None if None in peaks else max(peaks),
        }
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Format the summary as a table."""
    rows = result["summary"]
    lines = [
        f"| | layers | agent steps/s | ratio to {next(iter(rows))} (lowest to highest) "
        "| peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        spread = f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}"
        peak = "-" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:,.0f}"
        lines.append(
            f"| {name} | {row['layers']} | {row['sps']:,.0f} | {row['ratio']:.2f} ({spread}) "
            f"| {peak} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
