"""Searches: rounds, ranking, dropped candidates, and the results of real ones."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, child_environment, read_files, run_command, suite_command, tiny_plan
from scipy import stats

from ppo37.presets import from_preset
from ppo37.suites.plan import make_plan, read_plan
from ppo37.suites.search_results import Attempt, candidates_of, ranking, works

# The base, and one with much more work in each update.
CANDIDATES = """
[variants.base]
[variants.heavy]
update_epochs = 40
[variants.light]
update_epochs = 1
[variants.other]
gamma = 0.9
"""
PLAN = "until = 0.0\n" + tiny_plan("201-202", threads=None) + CANDIDATES


def attempt(seed: int, cpu_s: float, reached: bool = True, error: str | None = None) -> Attempt:
    return Attempt(seed, reached, int(1000 * cpu_s), cpu_s, cpu_s, error)


def test_candidates_are_ranked_by_the_mean_logarithm_of_their_cpu_time() -> None:
    """One slow seed outweighs a fast one less than in a plain mean."""
    attempts = {
        "even": [attempt(1, 10.0), attempt(2, 10.0)],
        "uneven": [attempt(1, 4.0), attempt(2, 20.0)],
    }
    assert ranking(attempts, "cpu_s") == ["uneven", "even"]
    assert math.sqrt(4.0 * 20.0) < 10.0 < (4.0 + 20.0) / 2


def test_a_candidate_gains_nothing_by_failing() -> None:
    """Runs that never reach the score count alike, also if their steps are cheap."""
    attempts = {
        "base": [attempt(1, 280.0), attempt(2, 290.0)],
        "good": [attempt(1, 260.0), attempt(2, 270.0)],
        "cheap": [attempt(1, 240.0, reached=False), attempt(2, 250.0, reached=False)],
        "broken": [attempt(1, 0.0, reached=False, error="diverged"), attempt(2, 285.0)],
    }
    assert works(attempts, "cpu_s")["cheap"] == [290.0, 290.0]
    assert works(attempts, "cpu_s")["broken"] == [290.0, 285.0]
    assert ranking(attempts, "cpu_s") == ["good", "base", "broken", "cheap"]


def test_pairs_without_a_run_at_the_score_have_no_interval() -> None:
    """Two failures are equal by definition, which is no evidence."""
    failed = [attempt(seed, 10.0, reached=False) for seed in (1, 2, 3)]
    one = [attempt(1, 5.0), *failed[1:]]
    found = candidates_of({"base": failed, "none": failed, "one": one})
    assert found["none"]["cpu_s_ratio"]["interval"] is None
    value = pytest.approx(0.5 ** (1 / 3))
    assert found["one"]["cpu_s_ratio"] == {"value": value, "interval": None, "bound": "at most"}


def test_a_candidate_without_a_run_at_the_score_has_only_a_bound() -> None:
    """Its work is a limit, the same in all of its runs, which is no precise measurement."""
    attempts = {
        "base": [attempt(1, 10.0), attempt(2, 10.0)],
        "broken": [attempt(1, 0.0, reached=False, error="diverged") for _ in range(2)],
    }
    ratio = candidates_of(attempts)["broken"]["cpu_s_ratio"]
    assert ratio == {"value": pytest.approx(1.0), "interval": None, "bound": "at least"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search, which tests must not change."""
    folder = tmp_path_factory.mktemp("searched")
    found = subprocess.run(
        command(folder, "--rounds", "1,2"), capture_output=True, text=True, env=child_environment()
    )
    assert found.returncode == 0, found.stderr
    return folder / "search"


def command(folder: Path, *arguments: str) -> list[str]:
    made = suite_command(folder, PLAN, "--out", str(folder / "search"), *arguments)
    return ["search" if argument == "suite" else argument for argument in made]


def document_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "search.json").read_text())
    return found


def test_the_slower_half_is_dropped_but_not_the_base(searched: Path) -> None:
    found = document_of(searched)["candidates"]
    assert {name: len(each["runs"]) for name, each in found.items()} == {
        "base": 2,
        "heavy": 1,
        "light": 2,
        "other": 2,
    }
    assert document_of(searched)["dropped"] == {"heavy": 1}
    assert sorted(path.name for path in searched.glob("round-*")) == ["round-1", "round-2"]
    assert (searched / "search.png").read_bytes()[:4] == b"\x89PNG"


def test_the_numbers_are_those_of_the_logs(searched: Path) -> None:
    """Ratios are the exponentials of mean paired differences, with Student's interval."""
    found = document_of(searched)["candidates"]
    logs = {
        name: [
            json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
            for seed in (201, 202)
            for path in searched.glob(f"round-*/{name}__catch__s{seed}")
        ]
        for name in found
    }
    for name, each in found.items():
        steps = [log["agent_steps"] for log in logs[name]]
        assert [run["agent_steps"] for run in each["runs"]] == steps
        assert each["agent_steps"] == pytest.approx(stats.gmean(steps))
        assert each["cpu_s"] == pytest.approx(stats.gmean([log["cpu_s"] for log in logs[name]]))
    differences = [
        math.log(log["cpu_s"] / base["cpu_s"])
        for log, base in zip(logs["light"], logs["base"], strict=True)
    ]
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    ratio = found["light"]["cpu_s_ratio"]
    assert ratio["value"] == pytest.approx(math.exp(sum(differences) / 2))
    assert ratio["interval"] == pytest.approx([math.exp(interval.low), math.exp(interval.high)])
    assert found["heavy"]["cpu_s_ratio"]["interval"] is None, "one seed"


def test_the_same_command_trains_nothing_again_and_another_search_is_refused(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("search", str(searched.parent / "plan.toml"), "--out", str(searched))
    code, _, err = run_command(capsys, *arguments, "--rounds", "1,2")
    assert code == 0, err
    assert "starting" not in err
    before = read_files(searched)
    for other in (["--rounds", "2"], ["--until", "1", "--rounds", "1,2"], ["--gamma", "0.5"]):
        code, _, err = run_command(capsys, *arguments, *other)
        assert (code, "has another search; choose another --out" in err) == (2, True), err
    assert read_files(searched) == before


def test_a_refused_command_changes_nothing(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of jobs is refused by the suite of the first round, and not earlier."""
    plan = str(searched.parent / "plan.toml")
    options = ("--rounds", "1,2", "--jobs", "1000")
    before = read_files(searched)
    assert run_command(capsys, "search", plan, "--out", str(searched), *options)[0] == 2
    assert read_files(searched) == before
    assert run_command(capsys, "search", plan, "--out", str(tmp_path / "new"), *options)[0] == 2
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {".lock"}


def test_a_decision_stays(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of the first round that is trained again does not change who was dropped."""
    copy = shutil.copytree(searched, tmp_path / "search")
    document = document_of(copy)
    document["dropped"] = {"light": 1}  # as if it had been slower then
    (copy / "search.json").write_text(json.dumps(document))
    shutil.rmtree(copy / "round-2")
    plan = str(searched.parent / "plan.toml")
    code, _, err = run_command(capsys, "search", plan, "--out", str(copy), "--rounds", "1,2")
    assert code == 0, err
    found = document_of(copy)
    assert found["dropped"] == {"light": 1}
    assert len(found["candidates"]["heavy"]["runs"]) == 2


DAMAGES: list[tuple[str, dict[str, Any] | str | None, str]] = [
    ("search.json", {"decided": 99}, "search.json is damaged"),
    ("search.json", {"decided": -1}, "search.json is damaged"),
    ("search.json", {"dropped": {"base": 1}}, "search.json is damaged"),
    ("search.json", {"dropped": {"nobody": 1}}, "search.json is damaged"),
    ("search.json", {"dropped": {"heavy": 2}}, "search.json is damaged"),
    ("round-1/light__catch__s201/metrics.jsonl", "", "metrics.jsonl has lost its updates"),
]


@pytest.mark.parametrize(("file", "change", "message"), DAMAGES)
def test_damaged_files_are_named(
    file: str,
    change: dict[str, Any] | str,
    message: str,
    searched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(searched, tmp_path / "search")
    content = change if isinstance(change, str) else json.dumps({**document_of(copy), **change})
    (copy / file).write_text(content)
    plan = str(searched.parent / "plan.toml")
    code, _, err = run_command(capsys, "search", plan, "--out", str(copy), "--rounds", "1,2")
    assert (code, message in err.splitlines()[-1]) == (2, True), err


def test_a_page_that_cannot_be_written_is_named(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(searched, tmp_path / "search")
    (copy / "search.md").unlink()
    (copy / "search.md").mkdir()
    plan = str(searched.parent / "plan.toml")
    code, _, err = run_command(capsys, "search", plan, "--out", str(copy), "--rounds", "1,2")
    assert (code, err.splitlines()[-1].startswith("ppo37: cannot write ")) == (1, True), err


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on(searched: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--rounds", "1,2"),
        env=child_environment(),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    begun = tmp_path / "search" / "round-1" / "heavy__catch__s201" / "metrics.jsonl"
    while process.poll() is None and not (begun.exists() and begun.read_text()):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = subprocess.run(
        command(tmp_path, "--rounds", "1,2"),
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert found.returncode == 0, found.stderr
    undisturbed, ours = (
        document_of(path)["candidates"] for path in (searched, tmp_path / "search")
    )
    for name in ("base", "heavy", "light", "other"):
        runs = [
            [(run["seed"], run["agent_steps"], run["reached"]) for run in each[name]["runs"]]
            for each in (undisturbed, ours)
        ]
        assert runs[0] == runs[1]


def test_the_candidates_for_pong_can_be_searched() -> None:
    """Their base has the values of `fast` for a CPU."""
    values = read_plan(ROOT / "benchmarks" / "pong_candidates.toml")
    plan = make_plan(
        {**values, "seed": 1}, lambda preset, game, own: from_preset(preset, game, "cpu", **own)
    )
    assert plan.arms["base__pong"].config == from_preset("fast", "pong", "cpu")
    assert plan.seeds == list(range(201, 213))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("until = 0.0\n", ""), [], "needs the score to reach: --until"),
        ((CANDIDATES, "[variants.base]\n"), [], "needs two variants or more"),
        ((CANDIDATES, ""), [], "needs two variants or more"),
        (("update_epochs = 40", "update_epoch = 40"), [], "did you mean update_epochs?"),
        (("update_epochs = 40", "total_timesteps = 640"), [], "need the same total_timesteps"),
        (("[variants.heavy]", "[variants.base]"), [], "plan.toml"),
        (('["catch"]', '["catch", "pong"]'), [], "a search has one game"),
        (("until", 'budget = "1m"\nuntil'), [], "budget and total_timesteps exclude"),
        (("update_epochs = 1\n", "update_epochs = 1\nthreads = 2\n"), [], "need the same threads"),
        (("", ""), ["--rounds", "2,1"], "takes increasing numbers of seeds"),
        (("", ""), ["--rounds", "1,3"], "must be the number of seeds, 2"),
        (("", ""), ["--rounds", "few"], "--rounds takes numbers such as 5,8,12, not 'few'"),
        (("", ""), ["--until", "11"], "the highest score of catch is 10"),
    ],
)
def test_mistakes_are_refused(
    change: tuple[str, str],
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace(*change, 1))
    code, _, err = run_command(
        capsys, "search", str(plan), "--out", str(tmp_path / "search"), *options
    )
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "search").exists()
