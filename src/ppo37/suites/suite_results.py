"""The results of a suite: a document, and a table as CSV and as Markdown."""

import csv
import dataclasses
import io
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..backends.device import commit, describe_machine, processor_of, versions, versions_text
from ..config import Config, from_dict, to_dict
from ..envs.games import title
from ..errors import UsageError
from ..presets import describe
from ..session import directory
from ..session.checkpoint_format import Damaged, fits
from ..session.metrics import read_metrics
from ..session.view import duration
from ..tools.callbacks import UNTIL_GAMES, first_reached, score_text
from . import folder
from .compare_table import join_names, markdown_table
from .engine import Grid, Run
from .plan import Plan
from .room import Needs
from .seeds import named

LAST_GAMES = 100
DOCUMENT, TABLE, PAGE = "suite.json", "results.csv", "results.md"
SCORE = "mean raw score of the last 100 training games, as in CleanRL's and baselines' tables"

SUMMARY_FORM: dict[str, Any] = {"games": int, "agent_steps": int, "wall_s": float}
ORIGIN_FORM: dict[str, Any] = {"machine": dict, "versions": dict}
NEEDS_FORM: dict[str, Any] = {"memory": int, "checkpoints": int}
"""The content of the files that results are read from, see `fits`."""


class TrainedArm(NamedTuple):
    """A variant in one game: the settings of its plan, and those that are trained."""

    variant: str
    asked: Config
    config: Config
    needs: Needs


class Suite(NamedTuple):
    """The runs of a suite, its budget, and the errors of the runs that failed, by their names.

    origin: see `suite`; the commits of `ppo37 regress` are there by the name of their variant.
    """

    grid: Grid
    arms: dict[str, TrainedArm]
    budget: str | None
    failures: dict[str, str]
    origin: dict[str, str]


class Result(NamedTuple):
    """The result of a finished run, and the machine, versions and commit that trained it.

    reached: whether it reached the score to stop at; None if it had none.
    """

    score: float | None
    reached: bool | None
    games: int
    agent_steps: int
    wall_s: float
    exact: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None

    @property
    def text(self) -> str:
        """The result in words."""
        score = "no game has ended" if self.score is None else f"score {self.score:,.2f}"
        return f"{score}, {duration(self.wall_s)}"


def result_of(run: Run) -> Result:
    """Read the result of a finished run."""
    try:
        summary, document = directory.read_summary(run.path), directory.read_document(run.path)
    except Damaged as error:
        raise UsageError(f"{run.path / directory.SUMMARY} is damaged") from error
    score, exact = summary.get("last_100_mean"), summary.get("exact", True)
    made_by = document.get("commit", "")
    if not fits(summary, SUMMARY_FORM) or not (score is None or fits(score, float)):
        raise UsageError(f"{run.path / directory.SUMMARY} is damaged")
    if not (fits(document, ORIGIN_FORM) and fits([exact, made_by], (bool, str))):
        raise UsageError(f"{run.path / directory.CONFIG} is damaged")
    machine, threads = document["machine"], run.config.threads or 1
    cores = machine.get("cores", threads)
    # On a GPU the result does not depend on the number of cores.
    enough = run.config.device != "cpu" or not fits(cores, int) or cores >= threads
    return Result(
        score,
        _has_reached(run, summary),
        summary["games"],
        summary["agent_steps"],
        summary["wall_s"],
        exact and enough,
        machine,
        document["versions"],
        made_by or None,
    )


def _has_reached(run: Run, summary: dict[str, Any]) -> bool | None:
    """Return whether a finished run reached its score; it may have been trained further."""
    if run.until is None:
        return None
    if run.stopped_at_score(summary):
        return True
    return first_reached(read_metrics(run.path), run.until) is not None


def saved_arms(
    document: dict[str, Any] | None, path: Path, plan: Plan, origin: dict[str, str]
) -> dict[str, TrainedArm]:
    """Return the arms that the suite in `path` has already, with its choices.

    document: that of the suite, or None.  UsageError if it is a suite of another plan: arms and
    seeds may be added, but nothing else may change.
    """
    if document is None:
        return {}
    another = f"{path} has a suite of another plan"
    try:
        budget, seeds = document["budget"], document["seeds"]
        saved = {arm["name"]: arm for arm in document["arms"]}
        missing = [name for name in saved if name not in plan.arms]
        named_again = set(plan.seeds)
        missing += [f"seed {seed}" for seed in seeds if seed not in named_again]
        if document.get("origin", {}) != origin:
            raise UsageError(
                f"{path} has runs of other commits or of other first weights; choose another --out"
            )
        for name, before in (("budget", budget), ("until", document.get("until"))):
            if before != (now := getattr(plan, name)):
                was, now = (value if value is not None else "none" for value in (before, now))
                raise UsageError(f"{another} ({name} {was}, not {now}); choose another --out")
        if missing:
            raise UsageError(
                f"{another}, with {', '.join(missing)}; name all that it has, or choose another "
                "--out"
            )
        found = {}
        for name, arm in saved.items():
            asked = plan.arms[name].config
            what = f"{another}: {name} has other settings"
            folder.require_equal(from_dict(arm["asked"]), asked, what)
            trained = asked
            if budget is not None:
                steps = from_dict(arm["config"]).total_timesteps
                trained = dataclasses.replace(asked, total_timesteps=steps)
            # Only choices for `auto` come from the file, because it may come from a stranger.
            config = folder.with_known_choices(trained, arm["config"], what)
            if not fits(arm["needs"], NEEDS_FORM):
                raise TypeError(arm["needs"])
            found[name] = TrainedArm(plan.arms[name].variant, asked, config, Needs(**arm["needs"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path / DOCUMENT} is damaged; choose another --out") from error
    return found


def write_results(suite: Suite) -> dict[str, Any]:
    """Write `suite.json`, `results.csv` and `results.md`. Returns the document."""
    document = document_of(suite)
    # The document is first: without it the folder is not a suite.
    folder.write_document(suite.grid.path / DOCUMENT, document)
    for name, text in ((TABLE, _csv(document)), (PAGE, _markdown(suite, document))):
        folder.write_file(suite.grid.path / name, text.encode())
    return document


def text_of(document: dict[str, Any], run: Run) -> str:
    """Return the result of a finished run in words."""
    exact = any(each["exact"] for each in document["runs"] if each["run"] == run.name)
    return result_of(run).text + ("" if exact else ", not exact (results.md says why)")


def document_of(suite: Suite) -> dict[str, Any]:
    """Return the settings and the results of a suite, plain values."""
    grid = suite.grid
    runs = [
        _run_document(suite, name, grid.run(name, seed))
        for name in suite.arms
        for seed in grid.seeds
    ]
    device = next(iter(grid.arms.values())).device
    finished = [run for run in runs if run["machine"]]
    processors = [processor_of(run["machine"], device) for run in finished]
    for run, processor in zip(finished, processors, strict=True):
        if processor != processors[0]:
            run["exact"] = False  # it would have other numbers on the processor of the others
    return {
        "arms": [
            {
                "name": name,
                "variant": arm.variant,
                "asked": to_dict(arm.asked),
                "config": to_dict(arm.config),
                "needs": arm.needs._asdict(),
            }
            for name, arm in suite.arms.items()
        ],
        "seeds": grid.seeds,
        "budget": suite.budget,
        "until": grid.until,
        "origin": suite.origin,
        "score": SCORE,
        "runs": runs,
        "complete": all(run["finished"] for run in runs),
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
    }


def _run_document(suite: Suite, name: str, run: Run) -> dict[str, Any]:
    arm = suite.arms[name]
    document: dict[str, Any] = {
        "run": run.name,
        "arm": name,
        "variant": arm.variant,
        "game": run.config.game,
        "preset": run.config.preset,
        "protocol": run.config.protocol if run.config.env is None else None,
        "seed": run.config.seed,
        "finished": run.is_finished,
        "error": suite.failures.get(run.name),
    }
    result: dict[str, Any] = dict.fromkeys(Result._fields)
    try:
        if document["finished"]:
            result = result_of(run)._asdict()
    except UsageError as error:  # other runs still have results
        document |= {"finished": False, "error": str(error)}
    result["commit"] = suite.origin.get(arm.variant, result["commit"])
    return {**document, **result}


def _csv(document: dict[str, Any]) -> str:
    """Return the results as CSV, with a row for each run."""
    text = io.StringIO()
    rows = [
        {
            **run,
            "machine": (run["machine"] or {}).get("cpu"),
            "versions": versions_text(run["versions"] or {}),
        }
        for run in document["runs"]
    ]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(suite: Suite, document: dict[str, Any]) -> str:
    """Return the table of the arms, what is missing, and how it was made."""
    head = ["variant", "game", "score", "std", "each seed", "agent steps", "time of a run"]
    rows = []
    for name, arm in suite.arms.items():
        runs = [run for run in document["runs"] if run["arm"] == name and run["finished"]]
        scores = [run["score"] for run in runs if run["score"] is not None]
        row = [
            arm.variant or arm.config.preset,
            title(arm.config.game),
            f"{mean(scores):,.2f}" if scores else "",
            f"{stdev(scores):,.2f}" if len(scores) > 1 else "",
            ", ".join(f"{run['seed']}: {_number(run['score'])}" for run in runs),
            f"{mean(run['agent_steps'] for run in runs):,.0f}" if runs else "",
            duration(mean(run["wall_s"] for run in runs)) if runs else "",
        ]
        rows.append(row)
    return "\n".join([markdown_table(head, rows), "", *_notes(suite, document), ""])


def _notes(suite: Suite, document: dict[str, Any]) -> list[str]:
    """Return the notes below the table: what is missing, and how the runs were trained."""
    unfinished = [run for run in document["runs"] if not run["finished"]]
    inexact = [run["run"] for run in document["runs"] if run["exact"] is False]
    configs = [arm.config for arm in suite.arms.values()]
    protocols = sorted({config.protocol for config in configs if config.env is None})
    finished = [run for run in document["runs"] if run["finished"]] or [document]
    processors = sorted({processor_of(run["machine"], configs[0].device) for run in finished})
    commits = sorted({run["commit"] or "unknown" for run in finished})
    software = sorted({versions_text(run["versions"]) for run in finished})
    settings = dict[str, list[str]]()
    for name, arm in suite.arms.items():
        settings.setdefault(describe(arm.config, ("total_timesteps",)), []).append(name)
    described = [f"{join_names(names)}: {text}" for text, names in settings.items()]
    short = [run["run"] for run in document["runs"] if (run["games"] or LAST_GAMES) < LAST_GAMES]
    notes = [f"Score: {SCORE}. std: of the sample, over the seeds."]
    if suite.grid.until is not None:
        reached = [run["run"] for run in document["runs"] if run["reached"]]
        notes[0] = (
            f"Training of a run stops when the mean of its last {UNTIL_GAMES} games is at least "
            f"{score_text(suite.grid.until)}: {len(reached)} of {len(document['runs'])} runs have "
            "reached it. Scores of such runs are no measure of the agent; evaluate it."
        )
    if unfinished:
        runs = [
            f"{run['run']} ({run['error']})" if run["error"] else run["run"] for run in unfinished
        ]
        notes.append(f"Not finished: {join_names(runs)}.")
    if short:
        notes.append(f"Fewer than {LAST_GAMES} games had ended, all count: {join_names(short)}.")
    if inexact:
        notes.append(
            "Not exact: the machine or the software has changed, the processor is another one than "
            f"that of the first run, or the cores are too few: {join_names(inexact)}."
        )
    notes += [
        f"Settings: {'; '.join(described if len(settings) > 1 else settings)}.",
        f"Protocol: {', '.join(protocols) or 'that of the environments'}. "
        f"Seeds: {named(suite.grid.seeds)}."
        + (f" Budget: {suite.budget} for each run." if suite.budget else ""),
        f"Processor: {'; '.join(processors)}. Threads of a run: "
        f"{', '.join(sorted({str(config.threads) for config in configs}))}.",
        f"Commit {', '.join(commits)}; {'; '.join(software)}.",
    ]
    return notes


def _number(score: float | None) -> str:
    return "no game" if score is None else f"{score:,.2f}"
