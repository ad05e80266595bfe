"""How fast `ppo37 train` is, and how much memory it takes, as one thing about it changes.

    python benchmarks/speed.py SUITE        variants | envs | network | ranks

A suite is a few arms: other actions and observations, more environments, larger networks, several
ranks. Each round measures every arm in turn, each in fresh processes by the command that its users
would give, so that a change of the machine's speed meets all. An arm's ratio is the median of its
ratios to the first arm of the same round. The first updates do not count, nor does the last, after
which the run is saved. Prints a Markdown table and writes every figure to benchmarks/results/. Run
nothing else beside it: the load average before each measurement is recorded with it.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from ppo37.bench import commit
from ppo37.config import from_preset, layers_in_words
from ppo37.run import watched
from ppo37.run.directory import read_config
from ppo37.runtime.device import cores_of_process, describe_machine, versions

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3, help="that count, of each measurement")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes")
    options = parser.parse_args()
    if min(options.rounds, options.updates) < 1:
        parser.error("--rounds and --updates must be at least 1")
    arms = [arm for arm in SUITES[options.suite] if (arm.cores or 1) <= len(cores_of_process())]
    figures = []
    for number in range(1, options.rounds + 1):
        for arm in arms:
            figure = measure(arm, options.updates)
            figures.append({"round": number, "arm": arm.name, **figure})
            print(f"round {number}, {arm.name}: {figure['sps']:,.0f} SPS", file=sys.stderr)
    result = {
        "suite": options.suite, "game": GAME, "preset": "classic", "rounds": options.rounds,
        "updates": options.updates, "machine": describe_machine(), "versions": versions(),
        "commit": commit(), "arms": {arm.name: arm._asdict() for arm in arms},
        "summary": summary(figures), "measurements": figures,
    }  # fmt: skip
    print(markdown(result))
    path = options.out or RESULTS / f"{options.suite}_{processor(result['machine']['cpu'])}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


def processor(name: str) -> str:
    """The short form of a processor's name, without its maker's."""
    words = name.lower().replace("(r)", "").split()
    return next((word for word in words if word not in ("amd", "intel")), "unknown")


def measure(arm: Arm, updates: int) -> dict[str, Any]:
    """Agent steps a second and peak memory of one arm, in processes of its own."""
    minibatches = arm.envs // 2
    config = from_preset("classic", GAME, "cpu", num_envs=arm.envs, num_minibatches=minibatches)
    batch = config.batch_size
    steps = (WARM_UP_UPDATES + updates + 1) * batch
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [*launcher(arm), "-m", "ppo37", "train", GAME, "--preset", "classic",
                   "--device", "cpu", "--total-timesteps", str(steps), "--out", str(run),
                   "--num-envs", str(arm.envs), "--num-minibatches", str(minibatches),
                   *arm.settings.split()]  # fmt: skip
        _, peak = watched.run(command)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        config = read_config(run)
    ended_s = [record["wall_s"] for record in records[WARM_UP_UPDATES - 1 : -1]]
    return {
        "sps": batch * updates / (ended_s[-1] - ended_s[0]),
        "peak_memory_mib": peak,
        "layers": layers_in_words(config.precision, config.kernels),
        "load_before": load,
    }


def launcher(arm: Arm) -> list[str]:
    """What starts `python` for an arm."""
    cores = sorted(cores_of_process())[: arm.cores]
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if arm.cores else []
    if arm.ranks == 1:
        return [*pinned, sys.executable]
    return [*pinned, sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={arm.ranks}"]  # fmt: skip


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
            # `auto` may decide otherwise while something else keeps the machine busy.
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
