"""ppo37 on a GPU: checks, speed, time to a score, and published scores.

    python benchmarks/gpu.py            repeat until it prints "nothing is left"
    python benchmarks/gpu.py --trial    the same with tiny runs, on any machine

Each call takes at most eight minutes (`--minutes`) and continues the work of the last one: a
finished stage has its file in benchmarks/results/ and is skipped, and long runs are stopped by
SIGTERM and resumed. Run nothing else at the same time.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ppo37.backends.device import (
    commit,
    describe_machine,
    prepare_process,
    usable_cores,
    versions,
)
from ppo37.backends.executables import eager
from ppo37.config import Config
from ppo37.presets import from_preset
from ppo37.tools.bench import whole_loop

RESULTS, RUNS = Path(__file__).parent / "results", Path("runs/gpu")
TRIAL = Path("runs/gpu_trial")
start = import_module("ppo37.session.start")
LAST_GAMES = 20
"""Training games whose mean is the score during training."""


class Times(NamedTuple):
    """The time at which this call has to end, and whether it is a trial with tiny runs."""

    deadline: float
    trial: bool

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()


class Goal(NamedTuple):
    """Runs of several seeds and the score that they should reach; None: any score."""

    name: str
    game: str
    settings: str
    seeds: int
    score: float | None
    published: str = ""


GOALS = [
    Goal("pong_fast", "pong", "--preset fast", 3, 18.0, "best published: about 2 minutes"),
    Goal(
        "breakout_fast",
        "breakout",
        "--preset fast --total-timesteps 20000000",
        3,
        400.0,
        "best published: about 15 minutes",
    ),
    Goal("breakout_classic", "breakout", "--preset classic", 1, None, "414.7 +- 28.1"),
    Goal("pong_classic", "pong", "--preset classic", 1, None, "20.36"),
    Goal("beam_rider_classic", "beam_rider", "--preset classic", 1, None, "1,916 +- 485"),
]
ENVIRONMENTS = (8, 64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="longest duration of this call")
    parser.add_argument(
        "--trial", action="store_true", help=f"tiny runs in {TRIAL}, also without a GPU"
    )
    options = parser.parse_args()
    runs, results = (TRIAL, TRIAL) if options.trial else (RUNS, RESULTS)
    if not (options.trial or torch.cuda.is_available()):
        sys.exit("no CUDA device is available; --trial tests this script without one")
    times = Times(time.monotonic() + 60 * options.minutes - 15, options.trial)
    stages: dict[str, Callable[[], dict[str, Any] | None]] = {
        "check": lambda: check(times),
        "speed": lambda: speed(runs, times),
        **{goal.name: lambda goal=goal: pursue(goal, runs, times) for goal in GOALS},
    }
    results.mkdir(parents=True, exist_ok=True)
    for name, stage in stages.items():
        path = results / f"gpu_{name}.json"
        if path.exists():
            continue
        log(f"{name}: {times.left_s:.0f} s left")
        found = stage() if times.left_s > 0 else None
        if found is None:
            log(f"{name} is not finished; start this script again")
            return
        document = {
            **found,
            "machine": describe_machine(),
            "versions": versions(),
            "commit": commit(),
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
        log(f"wrote {path}\n{found['markdown']}")
    log("nothing is left")


def check(times: Times) -> dict[str, Any] | None:
    """Run the tests of CUDA graphs."""
    file = "tests/unit/backends/test_cuda_graphs.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    if times.trial:
        command += ["-k", "looks_at_a_value"]
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=times.left_s
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    verdict = done.stdout.strip().splitlines()[-1]
    return {
        "what": "Checks",
        "markdown": f"`pytest {file}`: {verdict}",
    }


def speed(runs: Path, times: Times) -> dict[str, Any] | None:
    """Measure the speed of `classic`, and its parts, by the number of environments."""
    figures_path = runs / "speed.json"
    figures = json.loads(figures_path.read_text()) if figures_path.exists() else {}
    arms = {f"{number} environments": (number, False) for number in ENVIRONMENTS}
    arms["8 environments, without graphs"] = (8, True)
    for name, (number, plain) in arms.items():
        if name in figures:
            continue
        if times.left_s < (1 if times.trial else 60 + number):
            return None
        figures[name] = measured_loop(number, plain, times.trial)
        runs.mkdir(parents=True, exist_ok=True)
        figures_path.write_text(json.dumps(figures))
    parts = list(next(iter(figures.values()))["time_shares"])
    lines = [f"| | SPS | {' | '.join(parts)} |", "|---|---|" + "---|" * len(parts)]
    for name, figure in figures.items():
        cells = " | ".join(f"{figure['time_shares'].get(part, 0):.0%}" for part in parts)
        lines.append(f"| {name} | {figure['loop_sps']:,.0f} | {cells} |")
    return {"what": "Speed of `classic` in bf16", "markdown": "\n".join(lines), "figures": figures}


def measured_loop(num_envs: int, plain: bool, trial: bool) -> dict[str, Any]:
    """Measure `train` with so many environments; plain: without CUDA graphs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    game, small = ("catch", {"num_steps": 16}) if trial else ("breakout", {})
    precision = "fp32" if trial else "bf16"  # the same with graphs and without
    config = from_preset("classic", game, device, num_envs=num_envs, precision=precision, **small)
    prepare_process(device, usable_cores())
    original = start.make_executables

    def without_graphs(
        agent: Any, optimizer: Any, config: Config, _: Any, sizes: Any, ranks: Any = None
    ) -> Any:
        return eager(agent, optimizer, config, len(sizes), ranks)

    try:
        if plain:
            start.make_executables = without_graphs
        return whole_loop(config, 3 if trial else 10)
    finally:
        start.make_executables = original


def pursue(goal: Goal, runs: Path, times: Times) -> dict[str, Any] | None:
    """Train for a goal: the time to its score, and the score at the end."""
    found = []
    for seed in range(1, goal.seeds + 1):
        run = runs / f"{goal.name}_{seed}"
        if not train_on(run, goal, seed, times):
            return None
        found.append(reached(run, goal))
    last = "published" if goal.score is None else "reached after"
    lines = [
        f"| seed | steps | wall time | start-up | score at the end | {last} |",
        "|---|---|---|---|---|---|",
    ]
    for seed, row in enumerate(found, 1):
        last = goal.published if goal.score is None else row["reached"]
        lines.append(
            f"| {seed} | {row['agent_steps']:,} | {row['wall_s']:.0f} s | "
            f"{row['start_up_s']:.1f} s | {row['score']:.2f} | {last} |"
        )
    wanted = "" if goal.score is None else f" to {goal.score:g} ({goal.published})"
    note = (
        f"\nScores are means of the last {LAST_GAMES} training games; wall time is training time."
    )
    return {
        "what": f"{goal.game}, {goal.settings}{wanted}",
        "markdown": "\n".join([*lines, note]),
        "figures": found,
    }


def train_on(run: Path, goal: Goal, seed: int, times: Times) -> bool:
    """Train or resume until the end or until the time is over. Returns whether it is finished."""
    state_path = run.with_suffix(".json")
    state = (
        json.loads(state_path.read_text())
        if state_path.exists()
        else {"process_s": 0.0, "starts": 0}
    )
    if is_finished(run):
        return True
    if times.left_s < 30:
        return False
    new = ["train", goal.game, *goal.settings.split(), "--seed", str(seed), "--out", str(run)]
    if times.trial:
        new = ["train", "catch", "--preset", "debug", "--seed", str(seed), "--out", str(run)]
    args = ["resume", str(run)] if (run / "config.json").exists() else new
    started = time.monotonic()
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("a") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "ppo37", *args], stderr=stderr)
        try:
            process.wait(times.left_s - 15)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
    state["process_s"] += time.monotonic() - started
    state["starts"] += 1
    state_path.write_text(json.dumps(state))
    # The signal itself ends a process that has not started to train.
    if process.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
        sys.exit(f"{' '.join(args)} failed with exit code {process.returncode}: {stderr.name}")
    return is_finished(run)


def is_finished(run: Path) -> bool:
    summary = run / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["finished"]


def reached(run: Path, goal: Goal) -> dict[str, Any]:
    """Return when the mean of the last games first reached the score, and the mean at the end."""
    games: list[float] = []
    first_time = "not reached"
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        games += [episode["return"] for episode in record["episodes"]]
        mean = statistics.mean(games[-LAST_GAMES:]) if len(games) >= LAST_GAMES else None
        enough = goal.score is not None and mean is not None and mean >= goal.score
        if enough and first_time == "not reached":
            first_time = f"{record['wall_s']:.0f} s, {record['agent_steps']:,} steps"
    state = json.loads(run.with_suffix(".json").read_text())
    return {
        "agent_steps": record["agent_steps"],
        "wall_s": record["wall_s"],
        "start_up_s": (state["process_s"] - record["wall_s"]) / state["starts"],
        "starts": state["starts"],
        "score": statistics.mean(games[-LAST_GAMES:]) if games else float("nan"),
        "games": len(games),
        "reached": first_time,
    }


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
