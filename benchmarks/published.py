"""Our scores beside published ones: trains the runs, and makes the table of docs/results.md.

    python benchmarks/published.py train RUNS [--jobs 2] [--only CartPole-v1 ...]
    python benchmarks/published.py pack RUNS
    python benchmarks/published.py table

RUNS is a folder with a run for each environment and seed. `train` resumes what is unfinished and
skips what is finished, there or among the stored logs. `pack` stores the log of each run in
benchmarks/results/runs/published, unless the stored one is longer, and `table` is made from these
logs. A score is the mean of the last 100 training games, as in CleanRL's tables; its standard
deviation over seeds is that of the population, as there. The published scores and their sources are
in benchmarks/results/published.csv.

Needs ppo37[mujoco], and the package minatar.
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, pstdev
from typing import Any, NamedTuple

PUBLISHED = Path(__file__).parent / "results" / "published.csv"
STORED = Path(__file__).parent / "results" / "runs" / "published"
ENOUGH_SEEDS = 8
MINATAR = "MinAtar/Breakout-v1"
MINATAR_IMPORT = ["--import", "minatar.gym:register_envs"]
# The settings of the published agent, with our network for small images. Its environment has no
# sticky actions, and ends a game after 1,000 steps. Its learning rate is constant, so its score
# after half of its budget can be compared.
MINATAR_SETTINGS = [
    *("--env-kwargs", '{"sticky_action_prob": 0.0, "max_episode_steps": 1000}'),
    *("--preset", "classic", "--network", "minatar", "--total-timesteps", "5120000"),
    *("--num-envs", "64", "--num-minibatches", "8", "--learning-rate", "5e-4", "--no-anneal-lr"),
    *("--gamma", "0.999", "--clip-coef", "0.2"),
]

CLASSIC_CONTROL = "CartPole-v1", "Acrobot-v1", "MountainCar-v0"
MUJOCO_V4 = "HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"
MUJOCO_V5 = "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"
SEEDS = {
    **dict.fromkeys(CLASSIC_CONTROL, range(1, 9)),
    **dict.fromkeys((*MUJOCO_V4, MINATAR, *MUJOCO_V5), range(1, 4)),
}
"""The seeds of each environment."""
STEPS = {
    **dict.fromkeys(CLASSIC_CONTROL, 499_712),
    **dict.fromkeys(MUJOCO_V4 + MUJOCO_V5, 999_424),
    MINATAR: 5_120_000,
}
"""The agent steps of each environment: its budget in whole updates."""


class Run(NamedTuple):
    """A run of the table. `path` is its directory in the folder RUNS."""

    env: str
    seed: int
    path: Path

    @property
    def stored(self) -> Path:
        """The compressed log in this repository."""
        return STORED / f"{self.path.name}.jsonl.gz"

    @property
    def is_finished(self) -> bool:
        return max(steps_in(self.stored), steps_in(self.path / "metrics.jsonl")) == STEPS[self.env]

    def command(self) -> list[str]:
        """Return the arguments of ppo37 that begin it or resume it."""
        brought = MINATAR_IMPORT if self.env == MINATAR else []
        if (self.path / "config.json").exists():
            return ["resume", str(self.path), *brought]
        settings = [*brought, *MINATAR_SETTINGS] if self.env == MINATAR else []
        numbers = ["--seed", str(self.seed), "--threads", "1", "--device", "cpu"]
        return ["train", self.env, *numbers, "--out", str(self.path), *settings]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "pack", "table"))
    parser.add_argument("runs", type=Path, nargs="?", help="the folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", nargs="+", choices=SEEDS, default=list(SEEDS), metavar="ENV")
    chosen = parser.parse_args()
    if chosen.action != "table" and chosen.runs is None:
        parser.error(f"{chosen.action} needs the folder of the runs")
    # One seed of each environment after the other, so that all have results early.
    found = sorted(runs_in(chosen.runs or Path(), chosen.only), key=lambda run: run.seed)
    if chosen.action == "train":
        sys.exit(train(found, chosen.jobs))
    if chosen.action == "pack":
        pack(found)
    else:
        print("\n".join(table(found)))


def runs_in(folder: Path, envs: list[str]) -> Iterator[Run]:
    for env in envs:
        for seed in SEEDS[env]:
            yield Run(env, seed, folder / f"{env.replace('/', '-')}__s{seed}")


def published_scores() -> list[dict[str, str]]:
    """Return the rows of published.csv."""
    with PUBLISHED.open() as file:
        return list(csv.DictReader(file))


def train(runs: list[Run], jobs: int) -> int:
    """Train `jobs` runs at a time. Returns 1 if one of them failed, else 0."""

    def finish(run: Run) -> bool:
        if run.is_finished:
            return True
        run.path.parent.mkdir(parents=True, exist_ok=True)
        with run.path.with_suffix(".txt").open("a") as log:
            command = [sys.executable, "-m", "ppo37", *run.command()]
            code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        print(f"{run.env}, seed {run.seed}: exit code {code}", flush=True)
        return code == 0

    pool = ThreadPoolExecutor(jobs)
    try:
        return 0 if all(list(pool.map(finish, runs))) else 1
    except KeyboardInterrupt:  # the runs get it, too, and leave a checkpoint
        print("the same command resumes the runs", flush=True)
        return 130
    finally:
        pool.shutdown(cancel_futures=True)


def pack(runs: list[Run]) -> None:
    """Store the logs of runs, compressed. A longer log that is stored already is kept."""
    for run in runs:
        log = run.path / "metrics.jsonl"
        if steps_in(log) > steps_in(run.stored):
            content = b"".join(line + b"\n" for line in lines_of(log))
            run.stored.write_bytes(gzip.compress(content, mtime=0))  # equal logs, equal files


def table(runs: list[Run]) -> Iterator[str]:
    """Yield the lines of the table, and what is not finished."""
    published = defaultdict(list)
    for row in published_scores():
        published[row["env"]].append(_published(row))
    by_env = defaultdict(list)
    for run in runs:
        by_env[run.env].append(run)
    yield "| environment | agent steps | ours | each seed | published |"
    yield "|---|---|---|---|---|"
    for env, its in by_env.items():
        done = [run for run in its if steps_in(run.stored) == STEPS[env]]
        scores = [last_record(run.stored)["charts/episodic_return_last_100"] for run in done]
        each = ", ".join(f"{score:.{_digits(score)}f}" for score in scores)
        beside = "; ".join(published[env]) or "none found"
        yield f"| {env} | {STEPS[env]:,} | {_ours(scores)} | {each} | {beside} |"
    yield ""
    missing = [_unfinished(env, its) for env, its in by_env.items()]
    yield f"Not finished: {'; '.join(filter(None, missing)) or 'none'}."


def lines_of(log: Path) -> list[bytes]:
    """Return the whole lines of a log, which may be compressed; none if it does not exist."""
    if not log.exists():
        return []
    content = gzip.decompress(log.read_bytes()) if log.suffix == ".gz" else log.read_bytes()
    return content.rpartition(b"\n")[0].splitlines()


def last_record(log: Path) -> dict[str, Any]:
    lines = lines_of(log)
    return json.loads(lines[-1]) if lines else {}


def steps_in(log: Path) -> int:
    """Return the agent steps that a log has; 0 if it does not exist."""
    return int(last_record(log).get("agent_steps", 0))


def _ours(scores: list[float]) -> str:
    if not scores:
        return "not finished"
    digits = _digits(mean(scores))
    spread = f" ± {pstdev(scores):.{digits}f}" if len(scores) > 1 else ""
    few = "" if len(scores) >= ENOUGH_SEEDS else "only "
    seeds = "seed" if len(scores) == 1 else "seeds"
    return f"{mean(scores):.{digits}f}{spread} ({few}{len(scores)} {seeds})"


def _published(row: dict[str, str]) -> str:
    spread = f" ± {row['std']}" if row["std"] else ""
    seeds = "1 seed" if row["seeds"] == "1" else f"{row['seeds']} seeds"
    steps = f"{int(row['agent_steps']):,} steps"
    return f"{row['score']}{spread} ([{row['agent']}]({row['source']}), {seeds}, {steps})"


def _digits(score: float) -> int:
    """Return how many decimals of a score to show."""
    return 0 if abs(score) >= 1000 else 2


def _unfinished(env: str, runs: list[Run]) -> str:
    """Name the seeds of an environment that are not finished, with the agent steps done."""
    steps = {run.seed: steps_in(run.stored) for run in runs}
    begun = [
        f"seed {seed} ({done:,} steps)" for seed, done in steps.items() if 0 < done < STEPS[env]
    ]
    waiting = [str(seed) for seed, done in steps.items() if not done]
    named = begun + ([f"seeds {', '.join(waiting)} (not begun)"] if waiting else [])
    return f"{env} {' and '.join(named)}" if named else ""


if __name__ == "__main__":
    main()
