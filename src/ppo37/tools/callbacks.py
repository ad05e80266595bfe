"""Callbacks for `train` and `resume`: evaluate, keep the best agent, record, stop.

None of them changes the run. Evaluations have their own environments and random numbers.
"""

import math
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import randomness
from ..build import Brought
from ..config import Config
from ..envs.games import LARGEST_SCORES
from ..errors import UsageError
from ..session.directory import BEST, load_best
from ..session.files import beside, explained, own_folder, shown
from ..session.metrics import read_metrics
from ..session.observer import Observer, Progress, RunStart
from .budget import seconds as seconds_of
from .evaluate import MOST_EPISODES, Evaluation, evaluate

EPISODES, FRESH_EPISODES, FRESH_SEED = 10, 30, 0
"""Games of each evaluation during training; games and seed of that of the best agent at the end,
as `ppo37 eval` has them. No evaluation during training has this seed."""
VIDEO_SECONDS = 60.0
UNTIL_GAMES = 20
"""The training games whose mean `Until` looks at."""
CHOSEN_BY = "chosen_by"
"""The key in `state.json` of the best agent for the mean score that it was chosen by."""


class _EverySteps(Observer):
    """A callback that works on the agent each time so many agent steps are over."""

    def __init__(self, steps: int) -> None:
        if type(steps) is not int or steps < 1:
            raise UsageError(f"steps must be a whole number of at least 1, not {steps!r}")
        self.steps = steps

    def start(self, run: RunStart) -> None:
        self._run, self._steps_before = run, run.agent_steps

    def update(self, progress: Progress) -> None:
        now, before = progress.record["agent_steps"], self._steps_before
        self._steps_before = now
        if now // self.steps > before // self.steps or progress.finished:
            with self._saved_agent() as folder:
                self._work(folder, progress)

    @contextmanager
    def _saved_agent(self) -> Iterator[Path]:
        """Yield a temporary folder with the agent as it is now."""
        folder = beside(self._run.path / BEST)
        try:
            yield self._run.save_agent(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _work(self, folder: Path, progress: Progress) -> None:
        """Work on the agent in a folder; a subclass does."""


class EvaluateEvery(_EverySteps):
    """Evaluation of whole games every `steps` agent steps and after the last update.

    The results are appended to `evaluations.jsonl` in the run, and logged under the tags
    `eval/episodic_return`, `eval/episodic_return_std` and `eval/episodic_length`. All evaluations
    of a run play the same games, from a random stream of their own.
    """

    def __init__(self, steps: int, episodes: int = EPISODES) -> None:
        super().__init__(steps)
        if type(episodes) is not int or not 1 <= episodes <= MOST_EPISODES:
            raise UsageError(
                f"episodes must be a number from 1 to {MOST_EPISODES:,}, not {episodes!r}"
            )
        self.episodes = episodes

    def _work(self, folder: Path, progress: Progress) -> None:
        started = time.perf_counter()
        result = self._evaluate(folder, self.episodes, _seed_of(progress.config.seed))
        record = {name: progress.record[name] for name in ("update", "agent_steps", "wall_s")}
        self._run.log_evaluation(
            {
                **record,
                "eval/episodic_return": result.mean,
                "eval/episodic_return_std": result.std,
                "eval/episodic_length": float(np.mean(result.lengths)),
                "evaluation_s": round(time.perf_counter() - started, 3),
                "seed": result.seed,
                "scores": result.scores,
                "lengths": result.lengths,
            }
        )
        self._compare(result)

    def _evaluate(self, agent: Path, episodes: int, seed: int) -> Evaluation:
        run = self._run
        own = run.brought.arguments
        return evaluate(agent, episodes, seed=seed, device=run.config.device, **own)

    def _compare(self, result: Evaluation) -> None:
        """Compare with the evaluations before; here nothing is to do."""


class KeepBest(EvaluateEvery):
    """`EvaluateEvery` that keeps the agent with the highest mean score, in the folder `best`.

    That mean is too high for a score, because it was chosen. So at the end the best agent plays 30
    games of another seed, and their mean is its score, in `summary.json` under `best`.
    """

    def start(self, run: RunStart) -> None:
        super().start(run)
        former = load_best(run.path)
        self._best: float | None = None
        if former is not None and type(former.state.get(CHOSEN_BY)) in (int, float):
            self._best = former.state[CHOSEN_BY]

    def _compare(self, result: Evaluation) -> None:
        if self._best is None or result.mean > self._best:
            self._best = result.mean
            own_folder(self._run.path, BEST)
            self._run.save_agent(self._run.path / BEST, **{CHOSEN_BY: result.mean})

    def finish(self) -> dict[str, Any] | None:
        if self._best is None:
            return None
        result = self._evaluate(self._run.path / BEST, FRESH_EPISODES, FRESH_SEED)
        interval = (
            ""
            if result.interval is None
            else " (95% interval {:.2f} to {:.2f})".format(*result.interval)
        )
        self._run.note(
            f"best agent, after {result.agent_steps:,} agent steps, in "
            f"{shown(self._run.path / BEST)}: score {result.mean:.2f}{interval} in "
            f"{FRESH_EPISODES} games other than those that it was chosen by"
        )
        return {
            BEST: {
                "agent_steps": result.agent_steps,
                "score": result.mean,
                "std": result.std,
                "interval": result.interval and list(result.interval),
                "episodes": len(result.scores),
                "seed": result.seed,
            }
        }


class RecordEvery(_EverySteps):
    """Video of one game every `steps` agent steps and after the last update, in `videos/`.

    A video shows at most `max_seconds`. UsageError if ffmpeg is missing, and before training
    starts for environments that cannot be shown.
    """

    def __init__(self, steps: int, max_seconds: float = VIDEO_SECONDS) -> None:
        from .video import find_ffmpeg

        super().__init__(steps)
        find_ffmpeg()
        self.max_seconds = max_seconds

    def check(self, config: Config, brought: Brought) -> None:
        from .screens import shown_env

        env = shown_env(config, _seed_of(config.seed), make_envs=brought.make_envs)
        with closing(env.envs):
            env.envs.reset()
            env.render()

    def _work(self, folder: Path, progress: Progress) -> None:
        from .record import record

        videos = own_folder(self._run.path, "videos")
        with explained(f"cannot write {videos}"):
            videos.mkdir(exist_ok=True)
        path = videos / f"{progress.record['update']:08d}.mp4"
        seed, own = _seed_of(progress.config.seed), self._run.brought.arguments
        device = progress.config.device
        record(folder, path, seed=seed, max_seconds=self.max_seconds, device=device, **own)


class MaxTime(Observer):
    """Stop after a time, such as 90s, 30m or 1h30m, or a number of seconds.

    The time begins when the object is made. Training stops before the update that would end later,
    if it takes as long as the longest so far, and its schedules do not change.
    """

    def __init__(self, time_limit: str | float) -> None:
        text = time_limit if isinstance(time_limit, str) else f"{time_limit:f}s"
        self._ends_s = time.monotonic() + seconds_of(text, "--max-time")

    def start(self, run: RunStart) -> None:
        self._before_s, self._longest_s = time.monotonic(), 0.0

    def update(self, progress: Progress) -> str | None:
        now = time.monotonic()
        self._longest_s = max(self._longest_s, now - self._before_s)
        self._before_s = now
        return "max_time" if now + self._longest_s > self._ends_s else None


class Until(Observer):
    """Stop when the mean score of the last 20 training games is at least `score`.

    It is computed after each update. Schedules do not change. A run that stands at the score when
    it is resumed is not trained further. `summary.json` has the rule and the mean as `until`.
    """

    def __init__(self, score: float) -> None:
        try:
            self.score = float(score) if type(score) in (int, float) else math.nan
        except OverflowError:
            self.score = math.inf
        if not math.isfinite(self.score):
            raise UsageError(f"the score to train to must be a finite number, not {score!r:.80}")
        self._games: deque[float] = deque(maxlen=UNTIL_GAMES)
        self._applied = False

    def reached_after(self, record: dict[str, Any]) -> bool:
        """Return whether the score is reached after the next update, by its record."""
        self._games.extend(float(game["return"]) for game in record["episodes"])
        return len(self._games) == UNTIL_GAMES and self._mean() >= self.score

    def check(self, config: Config, brought: Brought) -> None:
        own = config.env is not None or brought.make_envs is not None
        largest = math.inf if own else LARGEST_SCORES.get(config.game, math.inf)
        if self.score > largest:
            text = score_text(self.score)
            raise UsageError(f"--until {text}: the highest score of {config.game} is {largest}")

    def start(self, run: RunStart) -> str | None:
        self._note = run.note
        self._games.clear()
        self._applied = bool(run.config.updates_left(run.agent_steps))
        reached = False
        for record in read_metrics(run.path)[: run.update] if run.update else []:
            reached = self.reached_after(record)
        return self._reason(reached) if self._applied else None

    def update(self, progress: Progress) -> str | None:
        return self._reason(self.reached_after(progress.record))

    def finish(self) -> dict[str, Any] | None:
        if not self._games or not self._applied:  # a finished run did not stop by this rule
            return None
        rule = {"score": self.score, "games": len(self._games)}
        return {"until": {**rule, "mean": self._mean()}}

    def _reason(self, reached: bool) -> str | None:
        if not reached:
            return None
        self._note(f"the mean of the last {UNTIL_GAMES} training games is {self._mean():.2f}")
        return stopped_by(self.score)

    def _mean(self) -> float:
        return float(np.mean(self._games))


def stopped_by(score: float) -> str:
    """Return what `summary.json` has as `stopped_by` after `Until` has stopped a run."""
    return f"until {score_text(score)}"


def score_text(score: float) -> str:
    """Write a score with all its digits: 18, 1000000.5."""
    return repr(float(score)).removesuffix(".0")


def first_reached(records: Iterable[dict[str, Any]], score: float) -> dict[str, Any] | None:
    """Return the record after which `Until` would have stopped a run; None if it would not."""
    rule = Until(score)
    return next((record for record in records if rule.reached_after(record)), None)


def _seed_of(seed: int) -> int:
    """Return the seed of the evaluations of a run, which is never FRESH_SEED."""
    drawn = randomness.generator(seed, randomness.SELECTION).integers(FRESH_SEED + 1, 2**31)
    return int(drawn)
