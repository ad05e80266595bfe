"""All that is to be known of ppo37 on a GPU: checks, speed, minutes to a score, published scores.

    python benchmarks/gpu.py            again and again, until it says that nothing is left
    python benchmarks/gpu.py --trial    the same with tiny runs, on any machine

Each call works for at most eight minutes (`--minutes`) and goes on where the last one stopped: a
stage that is done has its file in benchmarks/results/ and is passed over, and long runs are stopped
by SIGTERM and resumed. Run nothing else beside it.
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

from ppo37.backends.device import describe_machine, prepare_process, usable_cores, versions
from ppo37.backends.executables import eager
from ppo37.config import Config, from_preset
from ppo37.tools.bench import commit, whole_loop

RESULTS, RUNS = Path(__file__).parent / "results", Path("runs/gpu")
TRIAL = Path("runs/gpu_trial")
session = import_module("ppo37.session.start")
LAST_GAMES = 20
"""Training games whose mean counts as the score on the way."""


class Times(NamedTuple):
    """When this call has to end, and what is tried instead of the real thing."""

    deadline: float
    trial: bool

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()


class Goal(NamedTuple):
    """Runs of several seeds, and the score that they are to reach; None: just how far they get."""

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
    parser.add_argument("--minutes", type=float, default=8.0, help="that this call may take")
    parser.add_argument(
        "--trial", action="store_true", help=f"tiny runs, also without a GPU; all of it in {TRIAL}"
    )
    options = parser.parse_args()
    runs, results = (TRIAL, TRIAL) if options.trial else (RUNS, RESULTS)
    if not (options.trial or torch.cuda.is_available()):
        sys.exit("no CUDA device is available; --trial tries this script out without one")
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
        say(f"{name}: {times.left_s:.0f} s left")
        found = stage() if times.left_s > 0 else None
        if found is None:
            say(f"{name} is not done; call again")
            return
        document = {
            **found,
            "machine": describe_machine(),
            "versions": versions(),
            "commit": commit(),
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
        say(f"wrote {path}\n{found['markdown']}")
    say("nothing is left")


def check(times: Times) -> dict[str, Any] | None:
    """The tests that need a GPU, and their neighbours."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit/backends/test_cuda_graphs.py",
    ]
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
        "markdown": f"`pytest tests/unit/backends/test_cuda_graphs.py`: {verdict}",
    }


def speed(runs: Path, times: Times) -> dict[str, Any] | None:
    """Speed and breakdown of `classic` with several numbers of environments."""
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
    """`train` with so many environments; plain: without recordings."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    game, small = ("catch", {"num_steps": 16}) if trial else ("breakout", {})
    precision = "fp32" if trial else "bf16"  # the same with graphs and without
    config = from_preset("classic", game, device, num_envs=num_envs, precision=precision, **small)
    prepare_process(device, usable_cores())
    recording = session.make_executables

    def unrecorded(
        agent: Any, optimizer: Any, config: Config, _: Any, lanes: Any, team: Any = None
    ) -> Any:
        return eager(agent, optimizer, config, len(lanes), team)

    try:
        if plain:
            session.make_executables = unrecorded
        return whole_loop(config, 3 if trial else 10)
    finally:
        session.make_executables = recording


def pursue(goal: Goal, runs: Path, times: Times) -> dict[str, Any] | None:
    """How long training takes to the score of a goal, and where it ends."""
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
    note = f"\nScores are means of the last {LAST_GAMES} training games; wall time is of training."
    return {
        "what": f"{goal.game}, {goal.settings}{wanted}",
        "markdown": "\n".join([*lines, note]),
        "figures": found,
    }


def train_on(run: Path, goal: Goal, seed: int, times: Times) -> bool:
    """Train or go on until the end or until the time is over; whether it is finished."""
    note = run.with_suffix(".json")
    state = json.loads(note.read_text()) if note.exists() else {"process_s": 0.0, "starts": 0}
    if is_finished(run):
        return True
    if times.left_s < 30:
        return False
    new = ["train", goal.game, *goal.settings.split(), "--seed", str(seed), "--out", str(run)]
    if times.trial:
        new = ["train", "catch", "--preset", "debug", "--seed", str(seed), "--out", str(run)]
    words = ["resume", str(run)] if (run / "config.json").exists() else new
    started = time.monotonic()
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("a") as log:
        process = subprocess.Popen([sys.executable, "-m", "ppo37", *words], stderr=log)
        try:
            process.wait(times.left_s - 15)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
    state["process_s"] += time.monotonic() - started
    state["starts"] += 1
    note.write_text(json.dumps(state))
    # By the signal itself, if it came before training had begun.
    if process.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
        sys.exit(f"{' '.join(words)} failed with exit code {process.returncode}: {log.name}")
    return is_finished(run)


def is_finished(run: Path) -> bool:
    summary = run / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["finished"]


def reached(run: Path, goal: Goal) -> dict[str, Any]:
    """When the mean of the last games first was the score, and what it was in the end."""
    games: list[float] = []
    moment = "not reached"
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        games += [episode["return"] for episode in record["episodes"]]
        mean = statistics.mean(games[-LAST_GAMES:]) if len(games) >= LAST_GAMES else None
        enough = goal.score is not None and mean is not None and mean >= goal.score
        if enough and moment == "not reached":
            moment = f"{record['wall_s']:.0f} s, {record['agent_steps']:,} steps"
    state = json.loads(run.with_suffix(".json").read_text())
    return {
        "agent_steps": record["agent_steps"],
        "wall_s": record["wall_s"],
        "start_up_s": (state["process_s"] - record["wall_s"]) / state["starts"],
        "starts": state["starts"],
        "score": statistics.mean(games[-LAST_GAMES:]) if games else float("nan"),
        "games": len(games),
        "reached": moment,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
