"""How fast `ppo37 train` is, and how much memory it takes, as one thing about it changes.

    python benchmarks/speed.py SUITE        variants | envs | network | ranks
    python benchmarks/speed.py shared       beside other work; see below

A suite is a few arms: other actions and observations, more environments, larger networks, several
ranks. Each round measures every arm in turn, each in fresh processes by the command that its users
would give, so that a change of the machine's speed meets all. An arm's ratio is the median of its
ratios to the first arm of the same round. The first updates do not count, nor does the last, after
which the run is saved. Prints a Markdown table and writes every figure to benchmarks/results/. Run
nothing else beside it: the load average before each measurement is recorded with it.

`shared` trains `fast` (without `target_kl`) alone, beside busy processes that it starts itself, and
two runs at once, for some seconds each. `--before CHECKOUT` measures other code in the same rounds,
all of its arms in the first `--before-rounds`; ratios are then to its speed alone, else to that of
this code.
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

from ppo37.backends.device import cores_of_process, describe_machine, versions
from ppo37.config import describe_layers, from_preset
from ppo37.session.directory import METRICS, read_config
from ppo37.session.metrics import read_metrics
from ppo37.tools.bench import commit

RESULTS = Path(__file__).parent / "results"
GAME = "breakout"
WARM_UP_UPDATES = 1


class Arm(NamedTuple):
    """Settings of `ppo37 train`, the processes that share the work, and the cores they may use.

    A minibatch has 256 samples whatever the number of environments, so that work per step is the
    same.
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
    """Trainings that run at once, and busy processes beside them."""

    runs: int = 1
    busy: int = 0
    nice: int = 0


LOADS = {
    "alone": Load(),
    "two trainings at once, together": Load(runs=2),
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
    parser.add_argument("--updates", type=int, default=3, help="that count, of each measurement")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement of shared")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="for shared: other code")
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
    """Write the figures of a suite, and what a reader has to know of them, to their file."""
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    here = Path(__file__).parents[1] / "src"
    before = options.before and (options.before / "src").resolve()
    figures = []
    for number in range(1, options.rounds + 1):
        for name, load in LOADS.items():
            codes = {"now": here}
            if before and (name == ALONE or number <= options.before_rounds):
                codes = {"before": before, **codes}
            for code, path in codes.items():
                sps = measure_load(path, load, options.seconds)
                figures.append({"round": number, "code": code, "load": name, "sps": sps})
                print(f"round {number}, {code}, {name}: {sum(sps):,.0f} SPS", file=sys.stderr)
    rows = shared_summary(figures)
    print(shared_markdown(rows))
    write(options, "fast", {"seconds": options.seconds, "summary": rows, "measurements": figures})


def measure_load(source: Path, load: Load, seconds: float) -> list[float]:
    """Agent steps a second of each training, from when all have made their first update.

    Where a training makes no whole update meanwhile, what it would have with one: a bound.
    """
    environment = {**os.environ, "PYTHONPATH": str(source)}
    with tempfile.TemporaryDirectory() as place, ExitStack() as started:

        def start(command: list[str]) -> None:
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=place,
            )
            started.callback(process.wait)
            started.callback(process.kill)

        runs = [Path(place) / str(number) for number in range(load.runs)]
        for run in runs:
            # Without target_kl, which lets one code make fewer epochs than another by chance.
            start(
                [
                    sys.executable,
                    "-m",
                    "ppo37",
                    "train",
                    GAME,
                    "--preset",
                    "fast",
                    "--device",
                    "cpu",
                    "--target-kl",
                    "none",
                    "--out",
                    str(run),
                ]
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not all(map(records_of, runs)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(load.busy):
            start([*(["nice", "-n", str(load.nice)] if load.nice else []), *BUSY])
        before = [len(records_of(run)) for run in runs]
        time.sleep(seconds)
        return [
            speed(records_of(run)[max(first - 1, 0) :], seconds)
            for run, first in zip(runs, before, strict=True)
        ]


def records_of(run: Path) -> list[dict[str, Any]]:
    """The updates that a run which may just have been started has logged."""
    return read_metrics(run) if (run / METRICS).exists() else []


def speed(records: list[dict[str, Any]], seconds: float) -> float:
    """Agent steps a second between the first and the last of some updates."""
    batch = from_preset("fast", GAME, "cpu").batch_size
    if len(records) < 2:
        return batch / seconds
    return batch * (len(records) - 1) / (records[-1]["wall_s"] - records[0]["wall_s"])


def shared_summary(figures: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each code and load: the median speed, the median of its ratios to the reference alone in
    the same round, and a 95% interval of that median."""
    reference = "before" if any(f["code"] == "before" for f in figures) else "now"
    base = {
        f["round"]: sum(f["sps"]) for f in figures if (f["code"], f["load"]) == (reference, ALONE)
    }
    rows = {}
    for code, load in dict.fromkeys((f["code"], f["load"]) for f in figures):
        own = [f for f in figures if (f["code"], f["load"]) == (code, load)]
        ratios = sorted(sum(f["sps"]) / base[f["round"]] for f in own)
        low, high = median_interval(ratios)
        rows[f"{code}, {load}"] = {
            "sps": statistics.median(sum(f["sps"]) for f in own),
            "rounds": len(own),
            "ratio": statistics.median(ratios),
            "low": low,
            "high": high,
        }
    return rows


def median_interval(ordered: list[float], level: float = 0.95) -> tuple[float, float]:
    """Order statistics between which the median lies with at least this probability.

    The widest ones where there are too few values for it (fewer than 6).
    """
    count = len(ordered)
    cut = 0
    while 1 - 2 * sum(math.comb(count, i) for i in range(cut + 2)) / 2**count >= level:
        cut += 1
    return ordered[cut], ordered[count - 1 - cut]


def shared_markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The summary of `shared` as a table."""
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
    """A short name of a machine's processor, without its maker's, for the names of files."""
    words = machine["cpu"].lower().replace("(r)", "").split()
    short = next((word for word in words if word not in ("amd", "intel")), "unknown")
    # Processors of one name may differ by a generation.
    return short if machine["isa"] == "AVX512" else f"{short}_{machine['isa'].lower()}"


def measure(arm: Arm, updates: int) -> dict[str, Any]:
    """Agent steps a second and peak memory of one arm, in processes of its own."""
    minibatches = arm.envs // 2
    config = from_preset("classic", GAME, "cpu", num_envs=arm.envs, num_minibatches=minibatches)
    batch = config.batch_size
    steps = (WARM_UP_UPDATES + updates + 1) * batch
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [
            *launcher(arm),
            "-m",
            "ppo37",
            "train",
            GAME,
            "--preset",
            "classic",
            "--device",
            "cpu",
            "--total-timesteps",
            str(steps),
            "--out",
            str(run),
            "--num-envs",
            str(arm.envs),
            "--num-minibatches",
            str(minibatches),
            *arm.settings.split(),
        ]
        _, peak = watched.run(command)
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
    """What starts `python` for an arm."""
    cores = sorted(cores_of_process())[: arm.cores]
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if arm.cores else []
    if arm.ranks == 1:
        return [*pinned, sys.executable]
    return [
        *pinned,
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={arm.ranks}",
    ]


def summary(figures: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each arm the median speed, its ratios to the first arm of the round, and most memory."""
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
    """The summary as a table."""
    rows = result["summary"]
    lines = [
        f"| | layers | agent steps/s | beside {next(iter(rows))} (lowest to highest) "
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
