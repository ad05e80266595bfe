"""Whether a change of the code alters any number: short runs of every preset at two commits.

No hash is stored, because processors differ: both commits run on this machine, one after the other.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from ..presets import PRESET_NAMES, from_preset
from ..session.checkpoint import numbered
from ..session.directory import CHECKPOINTS
from ..session.metrics import read_metrics, without_clock
from ..session.signals import Signals
from ..tools.processes import finish, start

UPDATES = 20
GAMES = {
    "classic": "breakout",
    "fast": "pong",
    "classic_control": "CartPole-v1",
    "mujoco": "Pendulum-v1",  # needs no MuJoCo, and has real numbers as actions, too
    "debug": "catch",
}
"""An environment that each preset is for."""
EXACT = ("--precision=fp32", "--kernels=torch", "--device=cpu", "--threads=1", "--seed=1")


class Verdict(NamedTuple):
    """Whether a preset computes the same at both commits.

    weights: of the weights and Adam's moments, to the last bit.  update: the first whose log
    differs, or None.
    """

    preset: str
    game: str
    weights: bool
    update: int | None

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.weights and self.update is None


def golden(base: Path, head: Path, signals: Signals, log: Callable[[str], None]) -> list[Verdict]:
    """Train every preset for 20 updates with the package in two folders, and compare.

    RunError if a run fails, with its message; Stopped after a signal.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="ppo37-") as folder:
        for preset, game in GAMES.items():
            paths = [Path(folder) / preset / name for name in ("base", "head")]
            for path, source in zip(paths, (base, head), strict=True):
                _train(preset, game, path, source, signals)
            found.append(_compared(preset, game, *paths))
            log(text_of(found[-1]))
    return found


def text_of(verdict: Verdict) -> str:
    """Describe a verdict in a line."""
    name = f"{verdict.preset} on {verdict.game}"
    if verdict.same:
        return f"{name}: identical after {UPDATES} updates"
    if verdict.update is None:
        return f"{name}: the weights differ after {UPDATES} updates, the logs do not"
    weights = "" if verdict.weights is False else ", the weights at the end do not"
    return f"{name}: the logs differ from update {verdict.update} on{weights}"


def _train(preset: str, game: str, path: Path, source: Path, signals: Signals) -> None:
    steps = UPDATES * from_preset(preset, game, "cpu").batch_size
    more = (f"--preset={preset}", f"--total-timesteps={steps}", f"--out={path}")
    child = start("train", game, *more, *EXACT, source=source)
    try:
        finish(child, signals)
    finally:
        child.process.kill()
        child.close()


def _compared(preset: str, game: str, base: Path, head: Path) -> Verdict:
    logs = [[without_clock(record) for record in read_metrics(path)] for path in (base, head)]
    differ = [n for n, (a, b) in enumerate(zip(*logs, strict=False), 1) if not _same(a, b)]
    update = differ[0] if differ else None
    return Verdict(preset, game, _tensors(base) == _tensors(head), update)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Compare records in what both of them have: a version may log more."""
    return all(str(a[name]) == str(b[name]) for name in a.keys() & b.keys())


def _tensors(run: Path) -> list[bytes]:
    """Return the tensors of the last checkpoint, sorted: a version may name them otherwise."""
    newest = numbered(run / CHECKPOINTS)[0]
    files = [newest / f"{name}.safetensors" for name in ("model", "optimizer")]
    return sorted(tensor.numpy().tobytes() for file in files for tensor in load_file(file).values())


assert set(GAMES) | {"auto"} == set(PRESET_NAMES)
