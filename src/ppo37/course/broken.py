"""Training, or a test, with a copy of the package from which a detail of PPO was removed."""

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ..backends.device import usable_cores
from ..config import Config, flags
from ..errors import RunError, UsageError
from ..session.metrics import LAST_100, read_metrics
from ..session.signals import Signals
from ..tools.details import SOURCE, Detail, mutated
from ..tools.processes import finish, python, search_path, start
from .tasks import TASKS
from .trial import Trial

ROOT = SOURCE.parents[1]
"""The checkout, if this is one."""
LIMIT_S = 600.0


class Failure(NamedTuple):
    """The result of a test without the detail. lines: what the test said, empty if it passed."""

    test: str
    lines: list[str]


@contextmanager
def without(detail: Detail) -> Iterator[Path]:
    """Make a copy of the package without a detail; yield the folder that has it."""
    with tempfile.TemporaryDirectory(prefix="ppo37-broken-") as name:
        folder = Path(name)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE, folder / SOURCE.name, ignore=ignored)
        for file, (_, after) in mutated(detail.mutant).items():
            (folder / SOURCE.name / file).write_text(after, "utf-8")
        yield folder


def command(task: str) -> list[str]:
    """Return the arguments of ppo37 that train a task of the course."""
    made, envs = TASKS[task].make_config({}), TASKS[task].make_envs
    defaults = Config()
    changed = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(Config)
        if getattr(made, field.name) != getattr(defaults, field.name)
        and field.name not in ("game", "preset", "env")
    }
    name = getattr(envs, "__name__", "")
    where = [made.game] if envs is None else ["--env", f"{__package__}.tasks:{name}"]
    return ["train", *where, "--preset", "classic", *flags(changed)]


def train_without(detail: Detail) -> Trial:
    """Train the task of a detail with it and without it."""
    assert detail.task is not None
    with ExitStack() as stack:
        copy = stack.enter_context(without(detail))
        signals = stack.enter_context(Signals())
        outs = [copy / "without", copy / "with"]
        arguments = command(detail.task)
        children = []
        for out, source in zip(outs, (copy, None), strict=True):
            child = start(*arguments, "--out", str(out), source=source)
            stack.callback(child.close)
            stack.callback(child.process.kill)
            children.append(child)
            if usable_cores() == 1:
                finish(child, signals)  # one after the other
        for child in children:
            finish(child, signals)
        logs = [[r for r in read_metrics(out) if r[LAST_100] is not None] for out in outs]
    curves = [[record[LAST_100] for record in log] for log in logs]
    steps = [record["agent_steps"] for record in logs[1]]
    return Trial(TASKS[detail.task], steps=steps, theirs=curves[0], ours=curves[1])


def run_test_without(detail: Detail) -> Failure:
    """Run the first test of a detail in a copy without it; UsageError without the tests."""
    test = detail.tests[0]
    if not (ROOT / test.partition("::")[0]).is_file():
        raise UsageError("the tests are not installed; they come with the source code of ppo37")
    with without(detail) as copy:
        path = search_path([str(copy), str(ROOT / "tests"), str(ROOT / "benchmarks")])
        options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
        try:
            done = subprocess.run(
                python("-m", "pytest", *options, test),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{test} did not end within {LIMIT_S:g} s") from error
    if done.returncode not in (0, 1):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RunError(f"{test} could not be run: {' '.join(last)}")
    said = [line[1:].strip() for line in done.stdout.splitlines() if line.startswith("E ")]
    return Failure(test, said if done.returncode else [])
