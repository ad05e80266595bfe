"""Take every detail out, one at a time, and see its tests fail: `make mutants`.

The ledger (src/ppo37/data/details.toml) says which edits take a detail out and which tests have to
notice. Each mutant is a copy of the package of its own, and counts as killed only if a test's
assertion fails in it: not if it does not compile, cannot be imported, or makes a test crash. The
same tests have to pass in an unchanged copy.

    python -m mutants            all of them
    python -m mutants D05 A1     some
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ppo37.errors import UsageError
from ppo37.tools import details

ROOT = Path(__file__).parent.parent
PACKAGE = details.SOURCE
AT_A_TIME = 2
LIMIT_S = 300.0
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
FAILURES = (AssertionError, pytest.fail.Exception)
"""How a test says that something is wrong; any other exception is a crash."""


class Verdict(NamedTuple):
    """What the tests said of a copy. `trouble` is empty if they could be run as they should."""

    seconds: float
    passed: Sequence[str] = ()
    failed: Sequence[str] = ()
    crashed: Sequence[str] = ()
    skipped: Sequence[str] = ()
    trouble: str = ""


class Witness:
    """A plugin of pytest that notes how each test ended."""

    def __init__(self) -> None:
        self.ends: dict[str, list[str]] = {"passed": [], "failed": [], "crashed": [], "skipped": []}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Any:
        report = yield
        if report.failed:
            asserted = report.when == "call" and call.excinfo.errisinstance(FAILURES)
            self.ends["failed" if asserted else "crashed"].append(item.nodeid)
        elif report.skipped or report.when == "call":
            self.ends[report.outcome].append(item.nodeid)
        return report


def witness(copy: Path, modules: Sequence[str], tests: Sequence[str], answer: Path) -> None:
    """Inside a process of its own: run tests against a copy and write down how they ended."""
    try:
        places = [Path(str(importlib.import_module(name).__file__)) for name in modules]
    except Exception as error:
        answer.write_text(json.dumps({"trouble": f"cannot be imported: {error!r}"}))
        return
    strangers = [str(place) for place in places if not place.is_relative_to(copy)]
    if strangers:
        answer.write_text(json.dumps({"trouble": f"imported from {strangers}"}))
        return
    noted = Witness()
    code = pytest.main([*tests, "-q", "-m", "", "-p", "no:cacheprovider"], plugins=[noted])
    trouble = "" if code in (0, 1) else f"pytest ended with {code!r}"
    answer.write_text(json.dumps({**noted.ends, "trouble": trouble}))


def run(tests: Sequence[str], edits: Sequence[details.Edit] = ()) -> Verdict:
    """The verdict of tests on a copy of the package with some edits."""
    assert tests, "pytest would run all there are"
    changed = details.mutated(tuple(edits), PACKAGE)
    modules = ["ppo37", *(f"ppo37.{file[:-3].replace('/', '.')}" for file in changed)]
    with tempfile.TemporaryDirectory() as folder:
        copy, answer = Path(folder, "ppo37").resolve(), Path(folder, "answer.json")
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for file, (_, after) in changed.items():
            (copy / file).write_text(after)
        script = (
            "import mutants; from pathlib import Path; "
            f"mutants.witness(Path({str(copy)!r}), {modules}, {list(tests)}, Path({str(answer)!r}))"
        )
        paths = os.pathsep.join((folder, str(ROOT / "tests")))
        started = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", script],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths},
                timeout=LIMIT_S,
            )
            said = done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            said = f"not done after {LIMIT_S:.0f} s"
        seconds = time.monotonic() - started
        if not answer.exists():
            return Verdict(seconds, trouble=f"no answer: {said[-300:]}")
        return Verdict(seconds, **json.loads(answer.read_text()))


def verdict_line(detail: details.Detail, verdict: Verdict) -> str:
    """`D05 killed in 3.1 s by tests/...`, or why it lives."""
    if killed(verdict):
        return f"{detail.tag:3} killed in {verdict.seconds:.1f} s by {verdict.failed[0]}"
    crashes = f"only crashes in {verdict.crashed[0]}" if verdict.crashed else ""
    why = verdict.trouble or crashes or f"all of {', '.join(detail.tests) or 'no tests'} pass"
    return f"{detail.tag:3} LIVES: {why}"


def killed(verdict: Verdict) -> bool:
    """Whether an assertion failed."""
    return not verdict.trouble and bool(verdict.failed)


def main(words: Sequence[str] = ()) -> int:
    """Run the mutants of the details that are named, or all; 0 if every one is killed."""
    chosen = [details.find(word) for word in words] or details.load()
    tests = sorted({test for detail in chosen for test in detail.tests})
    sound = run(tests)
    if sound.trouble or sound.failed or sound.crashed or sound.skipped:
        print(f"unchanged, the tests do not all pass: {sound}")
        return 1
    print(f"unchanged: {len(sound.passed)} tests pass in {sound.seconds:.1f} s")
    deaths = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        verdicts = pool.map(lambda detail: run(detail.tests, detail.mutant), chosen)
        for detail, verdict in zip(chosen, verdicts, strict=True):
            print(verdict_line(detail, verdict), flush=True)
            deaths += killed(verdict)
    print(f"{deaths} of {len(chosen)} killed")
    return 0 if deaths == len(chosen) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
