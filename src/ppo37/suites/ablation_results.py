"""Results of an ablation study: scores, learning curves, differences, and their files.

Legend: S seeds, the same in every arm; P slices of a run's steps.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..backends.device import commit, describe_machine, processor_of, versions, versions_text
from ..config import from_dict, to_dict
from ..envs.games import title
from ..presets import describe
from ..session.metrics import read_metrics, steps_of
from ..tools.figures import save_png
from ..tools.stats import t_interval_of_mean
from . import ablation_plot, folder
from .ablation_arms import Arm
from .engine import Grid, Run

DOCUMENT, PICTURE = "ablation.json", "ablation.png"
SLICES = 40
"""Parts of equal steps in a learning curve, if the run has so many updates."""
LAST_PART = 4
"""The score is that of the last 1/4 of the steps."""
MEASURES = {
    "score": "mean raw score of the whole games that ended in the last quarter of the steps",
    "area": f"area under the learning curve: its mean over all steps, in up to {SLICES} slices of "
    "equal steps, each with the mean score of the games that ended in it (the slice before, if "
    "none did)",
}
"""Steps and not games: an agent with long games needs more steps for the same number of games."""


class Study(NamedTuple):
    """The arms of a study, the first with all details, and their runs."""

    arms: list[Arm]
    grid: Grid


class Result(NamedTuple):
    """The measures of a finished run (see MEASURES), None without a game; named as in the document.

    `curve` has P values; `games_judged` is the number of games behind the score.
    """

    score: float | None
    area: float | None
    curve: list[float] | None
    games: int
    games_judged: int
    wall_s: float


def measure(run: Run) -> Result:
    """Compute the measures of a finished run from its log."""
    records = read_metrics(run.path)
    games = [
        (steps_of(record), float(game["return"]))
        for record in records
        for game in record["episodes"]
    ]
    total = run.config.agent_steps
    last = [score for steps, score in games if steps * LAST_PART > total * (LAST_PART - 1)]
    curve = learning_curve(games, total, min(SLICES, run.config.num_updates))
    area = None if curve is None else _mean(curve)
    return Result(_mean(last), area, curve, len(games), len(last), records[-1]["wall_s"])


def learning_curve(
    games: Iterable[tuple[int, float]], total_steps: int, slices: int
) -> list[float] | None:
    """Return the mean score of the games that ended in each of P equal slices of the steps, [P].

    games: the agent step at which each ended (1 to `total_steps`), and its score.  A slice without
    games has the value of the slice before it or, at the start, of the first slice with games. None
    if no game ended.
    """
    ended: list[list[float]] = [[] for _ in range(slices)]
    for steps, score in games:
        ended[(steps * slices - 1) // total_steps].append(score)
    value = next((_mean(scores) for scores in ended if scores), None)
    if value is None:
        return None
    curve = []
    for scores in ended:
        value = float(np.mean(scores)) if scores else value
        curve.append(value)
    return curve


def difference(arm: dict[int, float | None], base: dict[int, float | None]) -> dict[str, Any]:
    """Return the differences of an arm to the base by seed, their mean, and its 95% interval.

    arm, base: a value for each trained seed. Seeds without a value in both are left out; the mean
    needs one pair and the interval two.
    """
    by_seed = {
        seed: value - known
        for seed, value in arm.items()
        if value is not None and (known := base.get(seed)) is not None
    }
    values = list(by_seed.values())
    return {
        "by_seed": {str(seed): value for seed, value in by_seed.items()},
        "mean": _mean(values),
        "interval": list(t_interval_of_mean(values)) if len(values) > 1 else None,
    }


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def table(document: dict[str, Any]) -> str:
    """Return the result of `ablate` as a table in plain text."""
    config, seeds = document["config"], document["seeds"]
    base = describe(from_dict(config), without=("total_timesteps",))
    protocol = f", protocol {config['protocol']}" if config.get("env") is None else ""
    head = (
        f"{title(config['game'])}, {base}{protocol}, "
        f"{document['agent_steps']:,} agent steps, {ablation_plot.format_seeds(seeds)}"
    )
    width = max(len(arm["label"]) for arm in document["arms"])
    columns = ("score", "difference (95% interval)", "area", "difference (95% interval)")
    rows = [f"{'':{width}}  {columns[0]:>9}  {columns[1]:28}  {columns[2]:>9}  {columns[3]}"]
    for arm in document["arms"]:
        cells = [f"{arm['label']:{width}}"]
        for name in MEASURES:
            mean, gap = arm[f"{name}_mean"], arm[f"{name}_difference"]
            cells.append(f"{'-' if mean is None else format(mean, ',.2f'):>9}")
            cells.append(f"{'' if gap is None else ablation_plot.format_difference(gap):28}")
        rows.append("  ".join(cells).rstrip())
    rules = [f"{name}: {rule}" for name, rule in document["judgement"].items()]
    software = versions_text(document["versions"])
    processor = processor_of(document["machine"], config["device"])
    made = f"{processor}; {software}; commit {document['commit'] or 'unknown'}"
    return "\n".join([head, *rows, *rules, *document["notes"], made])


def write_results(study: Study, results: dict[str, Result]) -> dict[str, Any]:
    """Write the document, and the picture as soon as every arm has a score; return the document.

    results: those of the finished runs, by the names of the runs.  RunError if that fails.
    """
    document = _document(study, results)
    folder.write_document(study.grid.path / DOCUMENT, document)
    if all(arm["score_mean"] is not None for arm in document["arms"]):
        save_png(ablation_plot.figure(document), study.grid.path / PICTURE)
    return document


def _document(study: Study, results: dict[str, Result]) -> dict[str, Any]:
    config = study.arms[0].config
    slices = min(SLICES, config.num_updates)
    missing = [run.name for run in study.grid.runs if run.name not in results]
    return {
        "config": to_dict(config),
        "agent_steps": config.agent_steps,
        "seeds": study.grid.seeds,
        "judgement": MEASURES,
        "notes": _notes(len(study.grid.seeds), missing),
        "complete": not missing,
        "missing": missing,
        "curve_steps": [config.agent_steps * (i + 1) / slices for i in range(slices)],
        "arms": [_arm_document(study, results, arm) for arm in study.arms],
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
    }


def _arm_document(study: Study, results: dict[str, Result], arm: Arm) -> dict[str, Any]:
    finished = _by_seed(study, results, arm)
    base = _by_seed(study, results, study.arms[0])
    document: dict[str, Any] = {
        "name": arm.name,
        "label": arm.label,
        "detail": arm.detail.tag if arm.detail else None,
        "switch": arm.detail.switch if arm.detail else {},
        "config": to_dict(arm.config),
        "runs": [
            {"run": name, "seed": seed, **result._asdict()}
            for seed, (name, result) in finished.items()
        ],
    }
    for name in MEASURES:
        values = {seed: getattr(result, name) for seed, (_, result) in finished.items()}
        of_base = {seed: getattr(result, name) for seed, (_, result) in base.items()}
        document[f"{name}_mean"] = _mean([v for v in values.values() if v is not None])
        document[f"{name}_difference"] = difference(values, of_base) if arm.detail else None
    return document


def _by_seed(study: Study, results: dict[str, Result], arm: Arm) -> dict[int, tuple[str, Result]]:
    """Return the names and results of an arm's finished runs."""
    runs = [study.grid.run(arm.name, seed) for seed in study.grid.seeds]
    return {run.config.seed: (run.name, results[run.name]) for run in runs if run.name in results}


def _notes(seeds: int, missing: list[str]) -> list[str]:
    """Return notes on how to read the numbers, and the names of the missing runs."""
    base = (
        "all differences are to the same runs of `all details`: chance in those runs is in every "
        "difference"
    )
    interval = "no interval: one seed cannot separate an effect from chance"
    if seeds > 1:
        interval = (
            f"interval: 95%, Student's t over the differences of {seeds} seeds, each between two "
            "runs of the same seed; it assumes a normal distribution and is for one detail alone: "
            "of twenty, one is expected to miss. An interval that contains 0 does not show that a "
            "detail has no effect: few seeds can separate only large effects from chance"
        )
    return [interval, base, *([f"missing: {', '.join(missing)}"] if missing else [])]
