"""The Pong speedrun: trains the rows of SPEEDRUN.md, and makes its table. The rules are there.

    python benchmarks/speedrun.py run ROW [ROW ...] --runs DIR [--seeds 1-10]
    python benchmarks/speedrun.py table
    python benchmarks/speedrun.py faster NEW OLD

ROW is a row of benchmarks/speedrun.toml. `run` trains each seed alone on the machine; several rows
take turns, seed by seed, so that what else the machine does meets all of them alike. After each
seed the results are written to benchmarks/results/speedrun/ROW.json; the same command continues,
and a seed that was interrupted begins again, because its time counts from the start of the command.
An agent is evaluated once. The kernels of a row are compiled before its first seed.

`faster` tests whether a row replaces another one: a paired t-test of the log times of equal seeds.
"""

import argparse
import gzip
import json
import math
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil

from ppo37.backends.device import describe_machine, processor_of
from ppo37.session.metrics import read_metrics
from ppo37.suites.commits import source_of
from ppo37.suites.compare_table import markdown_table
from ppo37.suites.seeds import seeds_from
from ppo37.tools.callbacks import first_reached
from ppo37.tools.processes import python, search_path

HERE = Path(__file__).parent
ROWS, RESULTS = HERE / "speedrun.toml", HERE / "results" / "speedrun"
GAME, SCORE, CORES = "pong", 18.0, 2
EVALUATION = {"episodes": 30, "seed": 1000}
IDLE_PERCENT, IDLE_S = 5.0, 5.0
"""A seed begins when the cores were busy for less than this part of so many seconds."""
LEVEL = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run")
    run.add_argument("rows", nargs="+", choices=read_rows(), metavar="ROW")
    run.add_argument("--runs", type=Path, required=True, help="a folder for the run directories")
    run.add_argument("--seeds", default="1-10")
    actions.add_parser("table")
    faster = actions.add_parser("faster")
    faster.add_argument("new", choices=read_rows())
    faster.add_argument("old", choices=read_rows())
    chosen = parser.parse_args()
    if chosen.action == "run":
        train_rows(chosen.rows, seeds_from(chosen.seeds, 1), chosen.runs.resolve())
    elif chosen.action == "table":
        print(table())
    else:
        print(verdict(chosen.new, chosen.old))


def read_rows() -> dict[str, dict[str, Any]]:
    """Return the rows of speedrun.toml by name."""
    found: dict[str, dict[str, Any]] = tomllib.loads(ROWS.read_text())["rows"]
    return found


def train_rows(names: Sequence[str], seeds: Sequence[int], runs: Path) -> None:
    """Train every seed of the rows that has no result yet, the rows in turn."""
    with ExitStack() as stack:
        rows = read_rows()
        sources = {name: stack.enter_context(source_of(rows[name]["commit"])) for name in names}
        for name in names:
            prepare(rows[name], sources[name].folder, runs / f"{name}-prepared")
        for seed in seeds:
            for name in names:
                document = read_results(name)
                if any(attempt["seed"] == seed for attempt in document.get("attempts", [])):
                    continue
                wait_until_idle()
                found = attempt_of(rows[name], sources[name].folder, seed, runs / f"{name}-s{seed}")
                keep_log(runs / f"{name}-s{seed}", name, seed)
                document |= {
                    **rows[name],
                    "commit": sources[name].name,
                    "date": str(date.today()),
                    "machine": describe_machine(),
                    "attempts": [*document.get("attempts", []), found],
                }
                RESULTS.mkdir(exist_ok=True)
                (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
                print(f"{name}, seed {seed}: {describe(found)}", flush=True)


def prepare(row: dict[str, Any], source: Path, path: Path) -> None:
    """Compile the kernels of a row, which is not part of its time, by a training of one update."""
    if not path.exists():
        ppo37(source, "train", GAME, *row["options"], "--total-timesteps", "2048", "--out", path)


def attempt_of(row: dict[str, Any], source: Path, seed: int, path: Path) -> dict[str, Any]:
    """Train one seed from the start of the command to its end, and evaluate the agent once.

    seconds is the time of the whole command. reached_s is the time until the rule of --until has
    stopped the run, or would have; None if it never did.
    """
    shutil.rmtree(path, ignore_errors=True)  # an interrupted attempt, whose time is lost
    until = [] if row.get("reference") else ["--until", f"{SCORE:g}"]
    began = time.monotonic()
    ppo37(source, "train", GAME, *row["options"], *until, "--seed", seed, "--out", path)
    seconds = time.monotonic() - began
    records = read_metrics(path)
    record = first_reached(records, SCORE)
    start_up_s = seconds - records[-1]["wall_s"]
    evaluation = [f"--{name}={value}" for name, value in EVALUATION.items()]
    result = json.loads(ppo37(source, "eval", path, *evaluation, "--json"))
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "reached_s": None if record is None else round(start_up_s + record["wall_s"], 1),
        "steps": (record or records[-1])["agent_steps"],
        "cpu_s": records[-1].get("cpu_s"),
        "score": result["mean"],
        "std": result["std"],
    }


def ppo37(source: Path, *arguments: Any) -> str:
    """Run a command of the version in `source` on the cores of the rules; return its output."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    return subprocess.run(
        python("-m", "ppo37", *map(str, arguments)),
        env={**os.environ, "PYTHONPATH": search_path([str(source)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    ).stdout


def wait_until_idle() -> None:
    """Wait until nothing else runs on the machine."""
    while psutil.cpu_percent(IDLE_S) > IDLE_PERCENT:
        pass


def keep_log(run: Path, name: str, seed: int) -> None:
    """Store the log of a run, compressed, beside the results."""
    RESULTS.mkdir(exist_ok=True)
    content = (run / "metrics.jsonl").read_bytes()
    (RESULTS / f"{name}-s{seed}.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))


def read_results(name: str) -> dict[str, Any]:
    """Return the results of a row; empty if it has none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def time_of(attempt: dict[str, Any]) -> float:
    """Return the time that counts, in seconds: a seed that never reached it has its full time."""
    reached = attempt["reached_s"]
    return float(attempt["seconds"] if reached is None else reached)


def succeeded(attempt: dict[str, Any]) -> bool:
    """Return whether a seed stopped by the rule and its evaluation confirms the score."""
    return attempt["reached_s"] is not None and attempt["score"] >= SCORE


def table() -> str:
    """Return the table of all rows that have results, in Markdown, and each seed below it."""
    head = ["row", "date", "commit", "change", "seeds at 18", "mean", "median", "worst", "steps"]
    head += ["processor"]
    rows, seeds = [], []
    for name in read_rows():
        document = read_results(name)
        if not document:
            continue
        attempts = sorted(document["attempts"], key=lambda attempt: attempt["seed"])
        times = [time_of(attempt) for attempt in attempts]
        passed = sum(map(succeeded, attempts))
        rows.append(
            [
                name + (" (reference)" if document.get("reference") else ""),
                document["date"],
                document["commit"][:7],
                document["change"],
                f"{passed} of {len(attempts)}",
                *(clock(value(times)) for value in (mean, median, max)),
                f"{mean(attempt['steps'] for attempt in attempts):,.0f}",
                processor_of(document["machine"], "cpu"),
            ]
        )
        seeds.append([name, *map(describe, attempts)])
    numbers = [str(n) for n in range(1, max((len(s) for s in seeds), default=1))]
    seeds = [each + [""] * (len(numbers) + 1 - len(each)) for each in seeds]
    return f"{markdown_table(head, rows)}\n\n{markdown_table(['seed', *numbers], seeds)}"


def describe(attempt: dict[str, Any]) -> str:
    """Return the time and the score of a seed."""
    reached = clock(attempt["reached_s"]) if attempt["reached_s"] is not None else "never"
    whole = clock(attempt["seconds"])
    return f"{reached}, {attempt['score']:.1f}" + ("" if reached == whole else f" ({whole})")


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds: 4:07."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def verdict(new: str, old: str) -> str:
    """Return whether row `new` replaces row `old`, and the test behind it."""
    from scipy import stats

    both = [
        {attempt["seed"]: attempt for attempt in read_results(name)["attempts"]}
        for name in (new, old)
    ]
    seeds = sorted(both[0].keys() & both[1].keys())
    pairs = [[time_of(attempts[seed]) for seed in seeds] for attempts in both]
    test = stats.ttest_rel(*([math.log(time) for time in each] for each in pairs))
    low, high = test.confidence_interval(0.95)
    failed = sum(not succeeded(attempt) for attempt in both[0].values())
    is_faster = test.statistic < 0 and test.pvalue < LEVEL and not failed
    return (
        f"{new} beside {old}, {len(seeds)} seeds: {clock(mean(pairs[0]))} and "
        f"{clock(mean(pairs[1]))}, ratio {math.exp(low + (high - low) / 2):.2f} (95% interval "
        f"{math.exp(low):.2f} to {math.exp(high):.2f}), p = {test.pvalue:.2g}; {failed} of "
        f"{len(both[0])} failed: it {'replaces' if is_faster else 'does not replace'} {old}"
    )


if __name__ == "__main__":
    main()
