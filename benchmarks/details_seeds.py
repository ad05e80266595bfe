"""Train small games with and without each of twelve details, eight seeds each, and compare.

    python benchmarks/details_seeds.py train RUNS [--jobs 2]
    python benchmarks/details_seeds.py table RUNS

RUNS is a folder with a run for each game, detail and seed; `train` skips what is finished, and
begins what is not again. `table` writes src/ppo37/data/details_seeds.json, from which the pages of
the details are made. The details, the games and the seeds were chosen before the first run. The
score is the mean of the curve over the last quarter of the updates; differences are paired by seed.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from ppo37.course.broken import command, without
from ppo37.session.directory import SUMMARY, read_document
from ppo37.session.metrics import LAST_100, read_metrics
from ppo37.tools import details
from ppo37.tools.processes import start
from ppo37.tools.stats import t_interval_of_mean

STORED = Path(__file__).parents[1] / "src" / "ppo37" / "data" / "details_seeds.json"
SEEDS = range(1, 9)
TASKS = {
    "catch": ("D02", "D04", "D05", "D06", "D07", "D10", "D11", "D22"),
    "remember": ("D34", "D35"),
    "aim": ("D24", "D25"),
}
"""The details of each game of the course."""


class Run(NamedTuple):
    """A run of a game. detail: the one that is removed; None if none is."""

    task: str
    detail: str | None
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}__{self.detail or 'all'}__s{self.seed}"


def runs() -> Iterator[Run]:
    """Yield all runs, one seed after the other, so that all details have results early."""
    for seed in SEEDS:
        for task, tags in TASKS.items():
            for tag in (None, *tags):
                yield Run(task, tag, seed)


def train(folder: Path, jobs: int) -> int:
    """Train what is not finished. Returns 1 if a run has failed."""
    with ExitStack() as stack:
        tags = {tag for tags in TASKS.values() for tag in tags}
        copies = {tag: stack.enter_context(without(details.find(tag))) for tag in tags}

        def finish(run: Run) -> bool:
            out = folder / run.name
            if (out / SUMMARY).exists():
                return True
            shutil.rmtree(out, ignore_errors=True)  # a run of its own, which has just begun
            seed = ["--seed", str(run.seed)]
            source = None if run.detail is None else copies[run.detail]
            child = start(*command(run.task), *seed, "--out", str(out), source=source)
            code = child.process.wait()
            print(run.name, child.stderr_tail() if code else "finished", flush=True)
            child.close()
            return code == 0

        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs) as pool:
            return 0 if all(list(pool.map(finish, runs()))) else 1


def curve(path: Path) -> tuple[list[int], list[float | None]]:
    """Return the steps and the scores of a run."""
    log = read_metrics(path)
    return [record["agent_steps"] for record in log], [record[LAST_100] for record in log]


def score(values: list[float | None]) -> float:
    """Return the mean of the last quarter of a curve."""
    last = [value for value in values[-max(1, len(values) // 4) :] if value is not None]
    return statistics.fmean(last)


def document(folder: Path) -> dict[str, Any]:
    """Return the curves and scores of all runs, and the differences without each detail."""
    found: dict[str, Any] = {"seeds": list(SEEDS), "tasks": {}, "details": {}}
    machine = read_document(folder / Run("catch", None, SEEDS[0]).name)
    found["commit"] = machine.get("commit")
    found["machine"] = machine.get("machine")
    for task, tags in TASKS.items():
        whole = {seed: curve(folder / Run(task, None, seed).name) for seed in SEEDS}
        steps = next(iter(whole.values()))[0]
        curves = [_rounded(values) for _, values in whole.values()]
        scores = [round(score(values), 4) for _, values in whole.values()]
        found["tasks"][task] = {"steps": steps, "curves": curves, "scores": scores}
        for tag in tags:
            own = [curve(folder / Run(task, tag, seed).name)[1] for seed in SEEDS]
            differences = [score(a) - score(whole[s][1]) for a, s in zip(own, SEEDS, strict=True)]
            low, high = t_interval_of_mean(differences)
            found["details"][tag] = {
                "task": task,
                "curves": [_rounded(values) for values in own],
                "scores": [round(score(values), 4) for values in own],
                "difference": round(statistics.fmean(differences), 4),
                "interval": [round(low, 4), round(high, 4)],
            }
    return found


def _rounded(values: list[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 3) for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "table"))
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    chosen = parser.parse_args()
    if chosen.action == "train":
        sys.exit(train(chosen.runs, chosen.jobs))
    found = document(chosen.runs)
    STORED.write_text(json.dumps(found) + "\n")
    for tag, each in found["details"].items():
        low, high = each["interval"]
        print(f"{tag} {each['task']:9} {each['difference']:+7.2f} ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
