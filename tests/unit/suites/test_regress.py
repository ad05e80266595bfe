"""Regression checks: two commits, or two suites, and what is said of their difference."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, child_environment

from ppo37.cli import main
from ppo37.errors import UsageError
from ppo37.suites import golden
from ppo37.suites.commits import full_name, source_of
from ppo37.suites.golden import EXACT, Verdict, text_of
from ppo37.suites.regress import verdict

GAMES = ["catch", "pong", "breakout"]
in_checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


class Scores:
    """Scores of some seeds in any game, as an `Entry` has them."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds

    def scores(self, game: str) -> Any:
        return np.zeros(self._seeds)


def said(value: float, low: float, high: float, seeds: int = 10) -> tuple[str, str]:
    gap = {"differences": {"iqm": {"value": value, "interval": [low, high]}}}
    compared = {"differences": [gap], "games": GAMES}
    entries: Any = [Scores(seeds)] * 2
    found = verdict(compared, entries, 0.1)
    return found["verdict"], found["reason"]


def test_the_verdict_goes_by_the_whole_interval() -> None:
    assert said(0.3, 0.2, 0.4)[0] == "better"
    assert said(-0.3, -0.4, -0.01)[0] == "worse"
    assert said(0.01, -0.09, 0.08)[0] == "no difference larger than 0.1"
    assert said(0.05, 0.01, 0.09)[0] == "no difference larger than 0.1"
    # Half of the interval is 0.2 with 10 seeds; to be within 0.1 of 0 it has to be half as wide.
    assert said(0.0, -0.2, 0.2) == ("cannot tell", "about 40 seeds are needed")
    # To leave out 0, it has to be 0.16 at most: 10 (0.2 / 0.16)^2.
    assert said(0.16, -0.04, 0.36) == ("cannot tell", "about 16 seeds are needed")
    assert said(0.3, 0.2, 0.4, seeds=3)[0] == "cannot tell"


@in_checkout
def test_the_source_of_a_commit_is_that_of_git() -> None:
    head = subprocess.run(
        ["git", "-C", str(ROOT), "show", "HEAD:src/ppo37/errors.py"],
        capture_output=True,
        check=True,
    ).stdout
    with source_of("HEAD") as source:
        assert (source / "ppo37" / "errors.py").read_bytes() == head
    assert not source.exists()
    with source_of(".") as source:
        assert source == ROOT / "src"
    assert len(full_name("HEAD")) == 40
    for wrong in ("nothing-of-this-name", "--help", ""):
        with pytest.raises(UsageError, match="has no commit"):
            full_name(wrong)


@pytest.mark.slow
def test_a_version_that_computes_something_else_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mutant of the loss, beside a version with another comment."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(golden, "GAMES", {"debug": "catch"})
    for name in ("base", "same", "mutant"):
        shutil.copytree(ROOT / "src", tmp_path / name)
    losses = Path("ppo37/algorithm/losses.py")
    text = (tmp_path / "base" / losses).read_text()
    (tmp_path / "same" / losses).write_text(f"# another comment\n{text}")
    right = "return 0.5 * error.mean()"
    assert right in text
    (tmp_path / "mutant" / losses).write_text(text.replace(right, "return 0.51 * error.mean()"))
    lines: list[str] = []
    from ppo37.session.signals import Signals

    def compared(name: str) -> Verdict:
        sources = {"base": tmp_path / "base", "head": tmp_path / name}
        (found,) = golden.golden(sources, Signals(), lines.append)
        return found

    assert compared("same").same
    found = compared("mutant")
    assert not found.same
    assert "differ" in text_of(found)
    assert "--precision=fp32" in EXACT


def test_two_suites_are_compared_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_engine import logged

    for name, gain in (("old", 0.0), ("new", 3.0)):
        suite = tmp_path / name
        suite.mkdir()
        for seed in range(8):
            run = logged(suite / f"catch__s{seed}", seed, 6, 1.0)
            (run.path / "checkpoints").mkdir()
            score = 5.0 + gain + (seed * (3 if gain else 5) % 7) / 10
            document = {"config": run.config.__dict__, "machine": {"cpu": "x"}, "versions": {}}
            (run.path / "config.json").write_text(json.dumps(document))
            summary = {"finished": True, "last_100_mean": score, "agent_steps": 384, "games": 99}
            (run.path / "summary.json").write_text(json.dumps(summary))
        runs = [{"run": f"catch__s{seed}", "variant": ""} for seed in range(8)]
        (suite / "suite.json").write_text(json.dumps({"runs": runs}))
    arguments = ["regress", str(tmp_path / "old"), str(tmp_path / "new"), "--json"]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert exit_.value.code == 0, err
    document = json.loads(out)
    assert document["verdict"] == "better"
    # By anchors 1.2 and 10.0 of catch.
    assert document["difference"] == pytest.approx(3.0 / 8.8, abs=0.02)
    assert json.loads((tmp_path / "out" / "regress.json").read_text())["verdict"] == "better"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "."], "has no commit 'nothing'"),
        (["HEAD", ".", "--margin", "0"], "--margin must be more than 0"),
        (["HEAD", ".", "--plan", "none.toml"], "cannot read none.toml"),
        (["HEAD", ".", "--seeds", "0"], "--seeds must be at least 1"),
    ],
)
@in_checkout
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["regress", *arguments])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@in_checkout
def test_a_commit_is_trained_beside_the_working_tree(tmp_path: Path) -> None:
    """With equal sources all runs are equal, and so the difference is 0."""
    (tmp_path / "plan.toml").write_text(
        'games = ["catch"]\npreset = "debug"\nseeds = "1-2"\n'
        '[settings]\nprecision = "fp32"\nkernels = "torch"\nthreads = 1\ndevice = "cpu"\n'
    )
    command = [sys.executable, "-m", "ppo37", "regress", ".", ".", "--json"]
    done = subprocess.run(
        [*command, "--plan", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["difference"] == 0.0
