"""Scores of runs during training: makes src/ppo37/data/reached.csv.

    python benchmarks/reached.py RUN [RUN ...]

The runs may be unfinished; their settings must be those of their preset, except for the seed and
the number of steps. One line for each game, preset, schedule and step count: the mean over runs of
the mean raw score of the last 100 training games.
"""

import argparse
import csv
import io
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from ppo37.config import from_dict
from ppo37.presets import changes, preset_key
from ppo37.session.metrics import LAST_100
from ppo37.tools.stats import REACHED_COLUMNS

EVERY = 50_000
OF_NO_PRESET = {"total_timesteps", "reseed_interval"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    scores: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for run in parser.parse_args().runs:
        config = from_dict(json.loads((run / "config.json").read_text())["config"])
        changed = set(changes(config)) - OF_NO_PRESET
        if changed or config.protocol != "classic":
            sys.exit(f"{run} differs from its preset: {sorted(changed) or config.protocol}")
        preset = preset_key(config.preset, config.device)
        for steps, score in scores_of(run, config.agent_steps).items():
            scores[config.game, preset, config.agent_steps, steps].append(score)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(REACHED_COLUMNS)
    for (game, preset, total, steps), found in sorted(scores.items()):
        table.writerow([game, preset, steps, f"{statistics.mean(found):.2f}", len(found), total])
    print(out.getvalue(), end="")


def scores_of(run: Path, total: int) -> dict[int, float]:
    """Return the mean of the last 100 games after every EVERY steps, and after `total`.

    No score before the end of the 20th game, except the last.
    """
    found: dict[int, float] = {}
    games = 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        games += len(record["episodes"])
        steps = record["agent_steps"]
        mark = steps // EVERY * EVERY
        if games >= 20 and mark and mark not in found:
            found[mark] = record[LAST_100]
        if steps == total:
            found[total] = record[LAST_100]
    return found


if __name__ == "__main__":
    main()
