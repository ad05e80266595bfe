"""Regression checks: two commits, or two suites, and what is said of their difference."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, child_environment, run_command

import ppo37
from ppo37.cli import main
from ppo37.cli.common import config_of
from ppo37.cli.options import parse
from ppo37.errors import UsageError
from ppo37.presets import PRESET_NAMES, from_preset
from ppo37.suites import golden
from ppo37.suites.commits import full_name, source_of
from ppo37.suites.engine import Run
from ppo37.suites.golden import EXACT, Verdict, text_of
from ppo37.suites.regress import _arguments, seeds_within, verdict

in_checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


class Scores:
    """Scores by game and seed, as an `Entry` has them."""

    def __init__(self, scores: dict[str, dict[int, float]]) -> None:
        self._scores, self.name = scores, "scores"
        self.games = list(scores)

    def seeds(self, game: str) -> list[int]:
        return list(self._scores[game])

    def scores(self, game: str) -> Any:
        return np.array(list(self._scores[game].values()))


BOUNDS = {"a": (0.0, 10.0), "b": (100.0, 300.0)}


def said(differences: list[float], margin: float = 0.1) -> tuple[str, str]:
    """Return the verdict for differences of the mean over two games, by seed."""
    base = Scores({"a": {s: 5.0 + s for s in range(9)}, "b": dict.fromkeys(range(9), 150.0)})
    head = Scores(
        {
            "a": {s: 5.0 + s + 10 * (d + 0.3) for s, d in enumerate(differences)},
            "b": {s: 150.0 + 200 * (d - 0.3) for s, d in enumerate(differences)},
        }
    )
    found = verdict(base, head, BOUNDS, margin)  # type: ignore[arg-type]
    assert found["seeds"] == len(differences)
    assert found["difference"] == pytest.approx(np.mean(differences))
    return found["verdict"], found["reason"]


def test_the_verdict_goes_by_the_whole_interval() -> None:
    near = [0.01, -0.02, 0.03, 0.0, -0.01, 0.02]
    assert said([0.3 + each for each in near])[0] == "better"
    assert said([each - 0.3 for each in near])[0] == "worse"
    assert said(near)[0] == "no difference larger than 0.1"
    assert said(near, margin=0.001)[0] == "cannot tell"
    assert said([0.3] * 4) == ("cannot tell", "at least 5 seeds are needed")
    # Mean 0 and standard deviation 0.2: t 0.2 / sqrt(n) is at most 0.1 from 18 seeds on.
    wide = [0.2 * sign * np.sqrt(5 / 6) for sign in (-1, 1, -1, 1, -1, 1)]
    assert np.std(wide, ddof=1) == pytest.approx(0.2)
    assert said(wide) == ("cannot tell", "about 18 seeds are needed")


def test_seeds_for_an_interval_by_a_table() -> None:
    """t(0.975, 17) = 2.1098 and t(0.975, 16) = 2.1199."""
    assert seeds_within(2.1098 / np.sqrt(18) + 1e-4, 1.0) == 18
    assert seeds_within(2.1098 / np.sqrt(18) - 1e-4, 1.0) == 19
    assert seeds_within(-0.1, 1.0) is None


@in_checkout
def test_the_source_of_a_commit_is_that_of_git() -> None:
    head = subprocess.run(
        ["git", "-C", str(ROOT), "show", "HEAD:src/ppo37/errors.py"],
        capture_output=True,
        check=True,
    ).stdout
    with source_of("HEAD") as source:
        assert (source.folder / "ppo37" / "errors.py").read_bytes() == head
        assert source.name == full_name("HEAD")
    assert not source.folder.exists()
    with source_of(".") as source, source_of(".") as again:
        own = Path(ppo37.__file__).parent / "loop.py"
        assert (source.folder / "ppo37" / "loop.py").read_bytes() == own.read_bytes()
        assert source.name == again.name
    assert len(full_name("HEAD")) == 40
    for wrong in ("nothing-of-this-name", "--help", ""):
        with pytest.raises(UsageError, match="has no commit"):
            full_name(wrong)


def test_every_preset_has_an_environment() -> None:
    assert set(golden.GAMES) | {"auto"} == set(PRESET_NAMES)


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


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    """A folder with the suites `old` and `new`, eight seeds of catch, and `other` seeds."""
    from test_engine import logged

    for name, gain, first in (("old", 0.0, 0), ("new", 3.0, 0), ("other", 0.0, 8)):
        suite = tmp_path / name
        suite.mkdir()
        seeds = range(first, first + 8)
        for seed in seeds:
            run = logged(suite / f"catch__s{seed}", seed, 6, 1.0)
            (run.path / "checkpoints").mkdir()
            score = 5.0 + gain + (seed * (3 if gain else 5) % 7) / 10
            document = {"config": run.config.__dict__, "machine": {"cpu": "x"}, "versions": {}}
            (run.path / "config.json").write_text(json.dumps(document))
            summary = {"finished": True, "last_100_mean": score, "agent_steps": 384, "games": 99}
            (run.path / "summary.json").write_text(json.dumps(summary))
        runs = [{"run": f"catch__s{seed}", "variant": ""} for seed in seeds]
        (suite / "suite.json").write_text(json.dumps({"runs": runs}))
    return tmp_path


@pytest.mark.parametrize(
    ("head", "out", "message"),
    [
        ("other", "out", "base and head have no seed in common"),
        ("new", "old", "old is a suite; choose another --out"),
        ("new", "file", "file is not a folder; choose another --out"),
    ],
)
def test_suites_that_cannot_be_compared_are_refused(
    head: str, out: str, message: str, suites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (suites / "file").touch()
    before = {path: path.read_bytes() for path in suites.rglob("*") if path.is_file()}
    arguments = [str(suites / name) for name in ("old", head)]
    code, _, err = run_command(capsys, "regress", *arguments, "--out", str(suites / out))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert {path: path.read_bytes() for path in suites.rglob("*") if path.is_file()} == before
    assert not (suites / "out").exists()


def test_a_run_of_another_version_gets_all_settings_of_the_plan(tmp_path: Path) -> None:
    changes = {"protocol": "machado", "modes": (0, 1), "gamma": 0.9}
    config = from_preset("fast", "breakout", "cpu", seed=3, threads=1, **changes)
    options = parse(_arguments(Run(config, tmp_path / "run")))
    assert config_of(options) == config
    own = from_preset("auto", "CartPole-v1", "cpu", env_workers=2, threads=1)
    assert config_of(parse(_arguments(Run(own, tmp_path / "run")))) == own


def test_two_suites_are_compared_as_they_are(
    suites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = suites
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
        (["HEAD", ".", "--seeds", "0"], "seeds must be at least 1"),
        (["HEAD", ".", "--plan", "own.toml"], "evil.py:Net, which only you may name"),
        (["HEAD", ".", "--plan", "acrobot.toml"], "Acrobot-v1 has no human score"),
        (["HEAD", ".", "--plan", "variants.toml"], "has no variants"),
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
    (tmp_path / "evil.py").write_text("open('stolen', 'w').close()\nNet = None\n")
    own = 'games = ["catch"]\n[settings]\nnetwork = "evil.py:Net"\n'
    (tmp_path / "own.toml").write_text(own)
    (tmp_path / "acrobot.toml").write_text('games = ["Acrobot-v1"]\n')
    variants = 'games = ["catch"]\n[variants.a]\n[variants.b]\ngamma = 0.9\n'
    (tmp_path / "variants.toml").write_text(variants)
    with pytest.raises(SystemExit) as exit_:
        main(["regress", *arguments])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, ""), err
    assert message in err.splitlines()[-1]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"evil.py", "own.toml", "acrobot.toml", "variants.toml"}


@pytest.mark.slow
@in_checkout
def test_a_commit_is_trained_beside_the_working_tree(tmp_path: Path) -> None:
    """With equal sources all runs are equal, and so the difference is 0."""
    (tmp_path / "plan.toml").write_text(
        'games = ["catch"]\npreset = "debug"\nseeds = "1-5"\n'
        '[settings]\nprecision = "fp32"\nkernels = "torch"\nthreads = 1\ndevice = "cpu"\n'
    )
    command = [sys.executable, "-m", "ppo37", "regress", ".", ".", "--json"]
    command += ["--plan", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "out")]

    def found() -> Any:
        done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    document = found()
    assert document["difference"] == 0.0
    assert document["verdict"] == "no difference larger than 0.1"
    assert found()["comparison"]["entries"] == document["comparison"]["entries"]
    # A commit may have settings that this version does not know.
    for path in (tmp_path / "out").glob("head__*/config.json"):
        config = json.loads(path.read_text())
        config["config"]["of_the_future"] = 1
        path.write_text(json.dumps(config))
    assert found()["comparison"]["entries"] == document["comparison"]["entries"]
