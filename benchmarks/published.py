"""Our scores beside published ones: trains the runs, and makes the table of docs/results.md.

    python benchmarks/published.py train RUNS [--jobs 2] [--only CartPole-v1 ...]
    python benchmarks/published.py table RUNS

RUNS is a folder with a run for each environment and seed. `train` resumes what is unfinished and
skips what is finished. A score is the mean of the last 100 training games, as in CleanRL's tables;
its standard deviation over seeds is that of the population, as there. The published scores and
their sources are in benchmarks/results/published.csv.

Needs ppo37[mujoco], and the package minatar.
"""

import argparse
import csv
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

SEEDS = {
    **dict.fromkeys(("CartPole-v1", "Acrobot-v1", "MountainCar-v0"), range(1, 9)),
    **dict.fromkeys(("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", MINATAR), range(1, 4)),
    **dict.fromkeys(("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"), range(1, 4)),
}
"""The seeds of each environment."""


class Run(NamedTuple):
    """A run of the table, in the folder RUNS."""

    env: str
    seed: int
    path: Path

    def summary(self) -> dict[str, Any]:
        """Return its summary; empty if there is none."""
        return _read(self.path / "summary.json")

    def steps_done(self) -> int | None:
        """Return its agent steps so far; None if it has not begun."""
        log = self.path / "metrics.jsonl"
        if not log.exists():
            return None
        lines = log.read_text().rsplit("\n", 1)[0].splitlines()  # whole lines only
        return int(json.loads(lines[-1])["agent_steps"]) if lines else 0

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
    parser.add_argument("action", choices=("train", "table"))
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", nargs="+", choices=SEEDS, default=list(SEEDS), metavar="ENV")
    chosen = parser.parse_args()
    # One seed of each environment after the other, so that all have results early.
    found = sorted(runs_in(chosen.runs, chosen.only), key=lambda run: run.seed)
    if chosen.action == "train":
        sys.exit(train(found, chosen.jobs))
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
        if run.summary().get("finished"):
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


def table(runs: list[Run]) -> Iterator[str]:
    """Yield the lines of the table, of the runs that are not finished, and of the machine."""
    published = defaultdict(list)
    for row in published_scores():
        published[row["env"]].append(_published(row))
    by_env = defaultdict(list)
    for run in runs:
        by_env[run.env].append(run)
    yield "| environment | agent steps | ours | each seed | published |"
    yield "|---|---|---|---|---|"
    for env, its in by_env.items():
        done = [run.summary() for run in its if run.summary().get("finished")]
        scores = [summary["last_100_mean"] for summary in done]
        steps = f"{done[0]['agent_steps']:,}" if done else ""
        each = ", ".join(f"{score:.{_digits(score)}f}" for score in scores)
        beside = "; ".join(published[env]) or "none found"
        yield f"| {env} | {steps} | {_ours(scores)} | {each} | {beside} |"
    yield ""
    missing = [_unfinished(env, its) for env, its in by_env.items()]
    yield f"Not finished: {'; '.join(filter(None, missing)) or 'none'}."
    documents = [_read(run.path / "config.json") for run in runs if run.summary().get("finished")]
    for part in ("machine", "versions"):
        for text in sorted({_described(document[part]) for document in documents}):
            yield f"{part.capitalize()}: {text}."


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
    steps = {run.seed: run.steps_done() for run in runs if not run.summary().get("finished")}
    begun = [f"seed {seed} ({done:,} steps)" for seed, done in steps.items() if done is not None]
    waiting = [str(seed) for seed, done in steps.items() if done is None]
    named = begun + ([f"seeds {', '.join(waiting)} (not begun)"] if waiting else [])
    return f"{env} {' and '.join(named)}" if named else ""


def _described(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file; empty if it does not exist."""
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    main()
