"""The inputs of a comparison: suites, runs and published columns become entries.

Legend: an entry is one of the things compared; it has runs of several games and seeds.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.device import processor_of
from ..config import Config
from ..envs.games import score_key
from ..errors import UsageError
from ..presets import describe
from ..session import directory
from ..session.checkpoint_format import Damaged, fits, parse_json, read
from ..session.files import one_line, own_folder, real_path
from ..session.metrics import read_metrics, steps_of
from ..tools.plots import MAY_DIFFER
from ..tools.stats import NOT_TRAINED, protocol_of, published_scores, running_mean
from .folder import LARGEST_DOCUMENT
from .suite_results import DOCUMENT, LAST_GAMES

OF_GAME = ("game", "env", *MAY_DIFFER)
"""Settings that may differ between the runs of an entry, as may the number of agent steps."""
PUBLISHED_STEPS = 10_000_000
STOPPED_AT_A_SCORE = "had a score to stop at (--until), so scores cannot be compared"
OTHER_ESTIMATE = {
    "cleanrl_ppo_envpool_xla_jax": "the scores of cleanrl_ppo_envpool_xla_jax are means of the "
    "latest game of each of 8 environments, not of the last 100 games"
}


class ScoredRun(NamedTuple):
    """A finished run, its score, and a line about its machine and versions.

    The score is the mean raw score of its last 100 training games.
    `ends` are the agent steps at which its games ended, and `means` the mean scores of the last 100
    games at these steps; both have the shape [games].
    """

    path: Path
    config: Config
    score: float
    origin: str
    ends: NDArray[np.float64]
    means: NDArray[np.float64]

    @property
    def game(self) -> str:
        """The key of its game, the same for runs and published scores."""
        return key_of(self.config)


class Entry(NamedTuple):
    """Runs that are compared as one thing, or a published column, which has no runs."""

    name: str
    runs: tuple[ScoredRun, ...] = ()
    published: dict[str, float] | None = None

    @property
    def games(self) -> list[str]:
        """The keys of its games, in the order of the runs or of the published table."""
        if self.published is not None:
            return list(self.published)
        return list(dict.fromkeys(run.game for run in self.runs))

    def of_game(self, game: str) -> list[ScoredRun]:
        """Return its runs of a game, sorted by seed."""
        found = (run for run in self.runs if run.game == game)
        return sorted(found, key=lambda run: run.config.seed)

    def scores(self, game: str) -> NDArray[np.float64]:
        """Return its scores in a game, [n], sorted by seed; one value if it is published."""
        if self.published is not None:
            return np.array([self.published[game]])
        return np.array([run.score for run in self.of_game(game)])

    def seeds(self, game: str) -> list[int]:
        """Return its seeds in a game; none if it is published."""
        return [run.config.seed for run in self.of_game(game)]

    def agent_steps(self, game: str) -> int | None:
        """Return the agent steps of its runs in a game; None for random play and the human."""
        if self.published is not None:
            return None if self.name in NOT_TRAINED else PUBLISHED_STEPS
        return self.of_game(game)[0].config.agent_steps


def runs_of(entries: Sequence[Entry], game: str) -> list[ScoredRun]:
    """Return the runs of all entries in a game."""
    return [run for entry in entries for run in entry.of_game(game)]


def key_of(config: Config) -> str:
    """Return the key of a run's game: Atari games as in tables of scores, others by their name."""
    return score_key(config.game) if config.is_atari else config.game


def columns() -> list[str]:
    """Return the names of the published columns."""
    found = dict.fromkeys(name for scores in published_scores().values() for name in scores)
    return [name for name in found if not name.endswith("_std")]


class _Group(NamedTuple):
    """Run directories that become one entry; `first` is the input that named the first of them."""

    label: str
    first: str
    runs: list[ScoredRun]


def read_entries(inputs: Sequence[str | Path], log: Callable[[str], None]) -> list[Entry]:
    """Return the entries that the inputs name, in their order; see `compare.compare`.

    log: called with a line for each run that is left out.  UsageError for inputs that are wrong.
    """
    places: list[Entry | _Group] = []
    groups: dict[Any, _Group] = {}
    named = dict[Path, str]()
    for text in map(str, inputs):
        label, path = _label_and_path(text)
        if path is None:
            places.append(_published(text))
            continue
        if path in named:
            raise UsageError(f"{path} is named twice: {named[path]} and {text}")
        named[path] = text
        if (path / DOCUMENT).is_file():
            places += _with_label(entries_of_suite(path, log), label)
            continue
        config = _read_settings(_require_run(path, text), log)
        if config is None:
            continue
        key = label or tuple(_settings(config).items())
        if key not in groups:
            groups[key] = _Group(label, text, [])
            places.append(groups[key])
        groups[key].runs.extend(_read_run(path, config, log))
    entries = [place if isinstance(place, Entry) else _entry_of(place) for place in places]
    if not entries:
        raise UsageError("there is no finished run to compare")
    _check_entries(entries)
    return entries


def entries_of_suite(
    path: str | Path,
    log: Callable[[str], None] = lambda _: None,
    configs: dict[str, Config] | None = None,
) -> list[Entry]:
    """Return an entry for each variant of a suite, or one with the name of its folder.

    Runs that are not finished or damaged are left out, with a line to `log`.  configs: the settings
    of the runs by their names, instead of those in their directories.  UsageError if a
    variant has no finished run, or if the suite's file is damaged.
    """
    path = real_path(path)
    file = path / DOCUMENT
    if not file.is_file():
        raise UsageError(f"{path} has no {DOCUMENT}, so it is not the directory of a suite")
    try:
        document = parse_json(read(file, LARGEST_DOCUMENT), file)
        if document.get("until") is not None:
            raise UsageError(f"the runs of {path} {STOPPED_AT_A_SCORE}")
        runs_listed = document["runs"]
        listed = [(str(run["run"]), str(run["variant"])) for run in runs_listed]
    except (Damaged, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is damaged") from error
    variants: dict[str, list[ScoredRun]] = {variant: [] for _, variant in listed}
    for name, variant in listed:
        if not directory.is_file_name(name):
            raise UsageError(f"{file} is damaged: {one_line(repr(name))} is not the name of a run")
        folder = own_folder(path, name)
        if not folder.exists():
            log(f"left out: {folder} has not been started")
            continue
        config = configs[name] if configs else _read_settings(folder, log)
        if config is not None:
            variants[variant].extend(_read_run(folder, config, log))
    for variant, runs in variants.items():
        if not runs:
            of = f" of the variant {one_line(variant)}" if variant else ""
            raise UsageError(f"no run{of} in {path} is finished and has a score to compare")
    if not variants:
        raise UsageError(f"{file} has no runs")
    return [Entry(one_line(v) or path.name, tuple(runs)) for v, runs in variants.items()]


def curve_of(run: ScoredRun, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean score of the last 100 games at each of these agent steps, [T].

    It is nan before the first game has ended and after the end of the run.
    """
    last = np.searchsorted(run.ends, steps, side="right") - 1
    known = (last >= 0) & (steps <= run.config.agent_steps)
    return np.where(known, run.means[last], np.nan)


def _label_and_path(text: str) -> tuple[str, Path | None]:
    """Split LABEL=PATH; the path is None for a published column."""
    if text in columns():
        return "", None
    label, equals, rest = text.partition("=")
    if equals and label and "/" not in label and not real_path(text).exists():
        if rest in columns():
            raise UsageError(f"{rest} is a published column and keeps its name; leave out {label}=")
        return label, real_path(rest)
    return "", real_path(text)


def _published(name: str) -> Entry:
    known = {game: scores[name] for game, scores in published_scores().items() if name in scores}
    return Entry(name, published=known)


def _with_label(entries: list[Entry], label: str) -> list[Entry]:
    """Return the entries of a suite, named by a label; several are named `label/name`."""
    if not label:
        return entries
    if len(entries) == 1:
        return [entries[0]._replace(name=label)]
    return [entry._replace(name=f"{label}/{entry.name}") for entry in entries]


def _require_run(path: Path, text: str) -> Path:
    """Return the path of a run directory; UsageError with what an input can be."""
    if not path.exists():
        raise UsageError(
            f"{text} does not exist, and it is no published column ({', '.join(columns())})"
        )
    if not directory.is_run(path):
        raise UsageError(
            f"{path} is neither a run directory ({directory.CONFIG} and {directory.CHECKPOINTS}/) "
            f"nor the directory of a suite ({DOCUMENT})"
        )
    return path


def _read_settings(path: Path, log: Callable[[str], None]) -> Config | None:
    """Return the settings of a run; None, with a line to `log`, if they cannot be read."""
    try:
        return directory.read_config(path)
    except UsageError as error:
        log(f"left out: {error}")
        return None


def _read_run(path: Path, config: Config, log: Callable[[str], None]) -> list[ScoredRun]:
    """Return a list with the run and its score; if it has none, log that and return []."""
    try:
        score, origin = _score_of(path), _origin(directory.read_document(path), config)
        return [ScoredRun(path, config, score, origin, *_games_of(path))]
    except UsageError as error:
        log(f"left out: {path}: {error}")
        return []


def _games_of(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `ends` and `means` of a run (see `ScoredRun`); UsageError for a damaged log."""
    games = [
        (steps_of(record), float(game["return"]))
        for record in read_metrics(path)
        for game in record["episodes"]
    ]
    if not games:
        raise UsageError("none of its games has ended")
    ends, scores = np.array(games, float).T
    return ends, running_mean(scores, LAST_GAMES)


def _origin(document: dict[str, Any], config: Config) -> str:
    """Return the processor, the versions and the commit of a run, as far as its file has them."""
    machine, versions = document.get("machine"), document.get("versions")
    machine = machine if isinstance(machine, dict) else {}
    versions = versions if isinstance(versions, dict) else {}
    named = [f"{name} {versions[name]}" for name in ("ppo37", "torch") if name in versions]
    processor = processor_of(machine, config.device)
    commit = [f"commit {document['commit']}"] if "commit" in document else []
    return one_line(", ".join([*filter(None, [processor]), *named, *commit]))


def _score_of(path: Path) -> float:
    """Return the score of a finished run; UsageError if it is not finished or has none."""
    if not (path / directory.SUMMARY).exists():
        raise UsageError("it is not finished")
    try:
        summary = directory.read_summary(path)
        finished, score = summary["finished"], summary["last_100_mean"]
        if "until" in summary:
            raise UsageError(f"it {STOPPED_AT_A_SCORE}")
    except (Damaged, KeyError) as error:
        raise UsageError(f"{directory.SUMMARY} is damaged") from error
    if not finished:
        raise UsageError("it is not finished")
    if score is None:
        raise UsageError("none of its games has ended")
    if not fits(score, float):
        raise UsageError(f"{directory.SUMMARY} is damaged")
    return float(score)


def _settings(config: Config, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the settings that are equal for all runs of an entry, except for `without`."""
    values = dataclasses.asdict(config)
    return {name: v for name, v in values.items() if name not in (*OF_GAME, *without)}


def _entry_of(group: _Group) -> Entry:
    """Return run directories as one entry; UsageError for no runs, or for different settings."""
    label, first_text, runs = group
    if not runs:
        raise UsageError(f"{label or first_text} has no finished run to compare")
    first, *others = (_settings(run.config, ("total_timesteps",)) for run in runs)
    for run, other in zip(runs[1:], others, strict=True):
        changed = [f"{n} {first[n]} and {other[n]}" for n in first if first[n] != other[n]]
        if changed:
            raise UsageError(
                f"{label} has runs of other settings ({', '.join(changed)}): {runs[0].path} and "
                f"{run.path}"
            )
    name = runs[0].path.name if len(runs) == 1 else describe(runs[0].config, ("total_timesteps",))
    return Entry(label or name, tuple(runs))


def _check_entries(entries: list[Entry]) -> None:
    """Raise UsageError if two entries have one name, or if a run is in two entries."""
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two entries have the name {name}; name them by LABEL=PATH")
    seen = dict[Path, str]()
    for entry in entries:
        for run in entry.runs:
            if run.path in seen:
                raise UsageError(f"{run.path} is in two entries, {seen[run.path]} and {entry.name}")
            seen[run.path] = entry.name
        for game in entry.games:
            _check_runs(entry, game)


def _check_runs(entry: Entry, game: str) -> None:
    """Raise UsageError if an entry's runs of a game have equal seeds or different lengths."""
    runs = entry.of_game(game)
    for run, other in itertools.pairwise(runs):
        both = f"{run.path} and {other.path}"
        if run.config.seed == other.config.seed:
            raise UsageError(
                f"{entry.name} has two runs of {run.config.game} with seed {run.config.seed}: "
                f"{both}"
            )
        if run.config.frames_per_step != other.config.frames_per_step:
            raise UsageError(f"{run.config.game} is not the same game in {both}")
        if run.config.agent_steps != other.config.agent_steps:
            raise UsageError(
                f"{entry.name} has runs of {run.config.game} with {run.config.agent_steps:,} and "
                f"{other.config.agent_steps:,} agent steps: {both}"
            )


def common_protocol(entries: Sequence[Entry], games: list[str]) -> str | None:
    """Return the protocol of the Atari games; None if there are none. UsageError for several."""
    protocols: dict[str, str] = {}
    for entry in entries:
        for run in entry.runs:
            if run.config.is_atari and run.game in games:
                protocols[run.config.protocol] = entry.name
        if entry.published is not None and (own := protocol_of(entry.name)) is not None:
            protocols[own] = entry.name
    if len(protocols) > 1:
        parts = " and ".join(f"{name} in {protocol}" for protocol, name in protocols.items())
        raise UsageError(f"scores of different protocols cannot be compared: {parts}")
    return next(iter(protocols), None)


def require_equal_steps(entries: Sequence[Entry], games: list[str]) -> None:
    """Raise UsageError if the agent steps of a game have different numbers of frames."""
    for game in games:
        frames: dict[int, str] = {}
        for entry in entries:
            frames |= {run.config.frames_per_step: entry.name for run in entry.of_game(game)}
            frames |= {4: entry.name} if entry.published is not None else {}
        if len(frames) > 1:
            parts = " and ".join(f"{count} in {name}" for count, name in frames.items())
            raise UsageError(f"an agent step of {game} has different numbers of frames: {parts}")
