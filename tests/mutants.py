"""Remove every detail, one at a time, and check that its tests fail: `make mutants`.

The table of details (src/ppo37/data/details.toml) has the edits that remove a detail and the tests
that must fail. Each mutant is a separate copy of the package. It is killed only if an assertion of
a test fails: not if it does not compile, cannot be imported, or makes a test crash. The same tests
have to pass in an unchanged copy.

    python -m mutants            all details
    python -m mutants D05 A1     some details
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
"""The exceptions of a failing test; any other exception is a crash."""


class Verdict(NamedTuple):
    """The results of the tests of a copy. `error` is empty if the tests could be run."""

    seconds: float
    passed: Sequence[str] = ()
    failed: Sequence[str] = ()
    crashed: Sequence[str] = ()
    skipped: Sequence[str] = ()
    error: str = ""


class Recorder:
    """A pytest plugin that records the result of each test."""

    def __init__(self) -> None:
        self.results: dict[str, list[str]] = {
            "passed": [],
            "failed": [],
            "crashed": [],
            "skipped": [],
        }

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Any:
        report = yield
        if report.failed:
            asserted = report.when == "call" and call.excinfo.errisinstance(FAILURES)
            self.results["failed" if asserted else "crashed"].append(item.nodeid)
        elif report.skipped or report.when == "call":
            self.results[report.outcome].append(item.nodeid)
        return report


def run_here(copy: Path, modules: Sequence[str], tests: Sequence[str], results: Path) -> None:
    """Run tests with a copy of the package in this process, and write a file of results."""
    try:
        paths = [Path(str(importlib.import_module(name).__file__)) for name in modules]
    except Exception as error:
        results.write_text(json.dumps({"error": f"cannot be imported: {error!r}"}))
        return
    outside = [str(path) for path in paths if not path.is_relative_to(copy)]
    if outside:
        results.write_text(json.dumps({"error": f"imported from {outside}"}))
        return
    recorder = Recorder()
    code = pytest.main([*tests, "-q", "-m", "", "-p", "no:cacheprovider"], plugins=[recorder])
    error = "" if code in (0, 1) else f"pytest ended with {code!r}"
    results.write_text(json.dumps({**recorder.results, "error": error}))


def run(tests: Sequence[str], edits: Sequence[details.Edit] = ()) -> Verdict:
    """Run tests with a copy of the package that has some edits."""
    assert tests, "pytest would run all tests"
    changed = details.mutated(tuple(edits), PACKAGE)
    modules = ["ppo37", *(f"ppo37.{file[:-3].replace('/', '.')}" for file in changed)]
    with tempfile.TemporaryDirectory() as folder:
        copy, results = Path(folder, "ppo37").resolve(), Path(folder, "results.json")
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for file, (_, after) in changed.items():
            (copy / file).write_text(after)
        script = (
            "import mutants; from pathlib import Path; "
            f"mutants.run_here(Path({str(copy)!r}), {modules}, {[*tests]}, Path({str(results)!r}))"
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
            output = done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            output = f"not finished after {LIMIT_S:.0f} s"
        seconds = time.monotonic() - started
        if not results.exists():
            return Verdict(seconds, error=f"no results: {output[-300:]}")
        return Verdict(seconds, **json.loads(results.read_text()))


def verdict_line(detail: details.Detail, verdict: Verdict) -> str:
    """Return `D05 killed in 3.1 s by tests/...`, or why it was not killed."""
    if killed(verdict):
        return f"{detail.tag:3} killed in {verdict.seconds:.1f} s by {verdict.failed[0]}"
    crashes = f"only crashes in {verdict.crashed[0]}" if verdict.crashed else ""
    why = verdict.error or crashes or f"all of {', '.join(detail.tests) or 'no tests'} pass"
    return f"{detail.tag:3} LIVES: {why}"


def killed(verdict: Verdict) -> bool:
    """Return whether an assertion of a test failed."""
    return not verdict.error and bool(verdict.failed)


def main(names: Sequence[str] = ()) -> int:
    """Run the mutants of some details, or of all. Returns 0 if every one is killed."""
    chosen = [details.find(name) for name in names] or details.load()
    tests = sorted({test for detail in chosen for test in detail.tests})
    unchanged = run(tests)
    if unchanged.error or unchanged.failed or unchanged.crashed or unchanged.skipped:
        print(f"not all tests pass without a mutant: {unchanged}")
        return 1
    print(f"without a mutant: {len(unchanged.passed)} tests pass in {unchanged.seconds:.1f} s")
    count = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        verdicts = pool.map(lambda detail: run(detail.tests, detail.mutant), chosen)
        for detail, verdict in zip(chosen, verdicts, strict=True):
            print(verdict_line(detail, verdict), flush=True)
            count += killed(verdict)
    print(f"{count} of {len(chosen)} killed")
    return 0 if count == len(chosen) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
