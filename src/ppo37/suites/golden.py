"""A check that a change of the code alters no number, by short runs of all presets.

No hash is stored, because processors differ: the runs of both commits are trained on this machine.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from ..config import Config
from ..errors import RunError
from ..presets import from_preset
from ..session.checkpoint import numbered
from ..session.directory import CHECKPOINTS
from ..session.metrics import read_metrics, without_clock
from ..session.signals import Signals
from .engine import Command, Grid, Processes, Run, fastest_jobs, shares_of_cores, train_all
from .suite_results import result_of

UPDATES = 20
GAMES = {
    "classic": "breakout",
    "fast": "pong",
    "classic_control": "CartPole-v1",
    "mujoco": "Pendulum-v1",  # needs no MuJoCo, and has real numbers as actions, too
    "debug": "catch",
}
"""An environment for each preset."""
EXACT = ("--precision=fp32", "--kernels=torch", "--device=cpu", "--threads=1", "--seed=1")


class Verdict(NamedTuple):
    """The result for one preset.

    weights: whether the weights and Adam's moments are equal to the last bit.  update: the first
    update whose log differs, or None.
    """

    preset: str
    game: str
    weights: bool
    update: int | None

    @property
    def same(self) -> bool:
        """Whether both commits computed the same numbers."""
        return self.weights and self.update is None


def golden(
    sources: dict[str, Path],
    signals: Signals,
    log: Callable[[str], None],
    jobs: int | None = None,
) -> list[Verdict]:
    """Train every preset for 20 updates with two versions of the package, and compare.

    sources: the folders of the versions by name.  jobs: runs at once; None chooses.
    RunError if a run fails, with its message; Stopped after a signal.
    """
    with tempfile.TemporaryDirectory(prefix="ppo37-") as folder, ExitStack() as stack:
        configs = {preset: _config(preset, game) for preset, game in GAMES.items()}
        arms = {f"{version}__{preset}": configs[preset] for preset in GAMES for version in sources}
        grid = Grid(Path(folder), arms, [1])

        jobs = fastest_jobs(len(grid.runs), "cpu") if jobs is None else jobs

        def command(run: Run) -> Command:
            version, preset, _ = run.name.split("__")
            more = (f"--preset={preset}", f"--total-timesteps={run.config.total_timesteps}")
            arguments = ["train", GAMES[preset], *more, *EXACT, f"--out={run.path}"]
            return Command(arguments, sources[version])

        pool = stack.enter_context(closing(Processes(shares_of_cores(jobs), command)))
        failures = train_all(grid.runs, pool, lambda run: result_of(run).text, signals, log)
        if failures:
            name, error = next(iter(failures.items()))
            raise RunError(f"{name}: {error}")
        return [
            _compared(
                preset, game, *(grid.run(f"{version}__{preset}", 1).path for version in sources)
            )
            for preset, game in GAMES.items()
        ]


def _config(preset: str, game: str) -> Config:
    config = from_preset(preset, game, "cpu", seed=1)
    return dataclasses.replace(config, total_timesteps=UPDATES * config.batch_size)


def text_of(verdict: Verdict) -> str:
    """Describe a verdict in a line."""
    name = f"{verdict.preset} on {verdict.game}"
    if verdict.same:
        return f"{name}: identical after {UPDATES} updates"
    if verdict.update is None:
        return f"{name}: the weights differ after {UPDATES} updates, the logs do not"
    weights = "" if verdict.weights is False else ", the weights at the end do not"
    return f"{name}: the logs differ from update {verdict.update} on{weights}"


def _compared(preset: str, game: str, base: Path, head: Path) -> Verdict:
    logs = [[without_clock(record) for record in read_metrics(path)] for path in (base, head)]
    differ = [n for n, (a, b) in enumerate(zip(*logs, strict=False), 1) if not _same(a, b)]
    update = differ[0] if differ else None
    return Verdict(preset, game, _tensors(base) == _tensors(head), update)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether two records agree in the values that both have: a version may log more."""
    return all(str(a[name]) == str(b[name]) for name in a.keys() & b.keys())


def _tensors(run: Path) -> list[bytes]:
    """Return the tensors of the last checkpoint, sorted, because versions may differ in names."""
    newest = numbered(run / CHECKPOINTS)[0]
    files = [newest / f"{name}.safetensors" for name in ("model", "optimizer")]
    return sorted(tensor.numpy().tobytes() for file in files for tensor in load_file(file).values())
