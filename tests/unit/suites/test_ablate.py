"""Ablation studies: arms differ in one detail, stopped studies resume, results are correct."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import LIMIT_S, TINY, read_files, tiny, tiny_options, wait_for_first_update

from ppo37 import train
from ppo37.cli import main
from ppo37.config import Config
from ppo37.errors import RunError, UsageError
from ppo37.suites.ablate import ablate
from ppo37.suites.ablation_arms import BASE, make_arms
from ppo37.suites.ablation_plot import spread
from ppo37.suites.ablation_results import (
    DOCUMENT,
    PICTURE,
    difference,
    learning_curve,
    measure,
    table,
)
from ppo37.suites.engine import Run, shares_of_cores

pytest.importorskip("matplotlib")

KEYS = (
    "config agent_steps seeds judgement notes complete missing curve_steps arms machine versions "
    "commit"
)
ARM_KEYS = (
    "name label detail switch config runs score_mean score_difference area_mean area_difference"
)
RUN_KEYS = "run seed score area curve games games_judged wall_s"
RUNS = ["all__s3", "without_D04__s3", "all__s4", "without_D04__s4"]
SETTINGS = tiny_options(*(name for name in TINY if name != "game"))


def make_runs(path: Path) -> None:
    """Train the runs of a study of D04 with seeds 3 and 4, and write the start of its document."""
    for seed in (3, 4):
        train(tiny(seed=seed), path / f"all__s{seed}", checkpoint_every=2)
        switched = tiny(seed=seed, anneal_lr=False)
        train(switched, path / f"without_D04__s{seed}", checkpoint_every=2)
    document = {"config": dataclasses.asdict(tiny())}
    (path / DOCUMENT).write_text(json.dumps(document))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of D04 with two seeds, resumed after one run had stopped after update 4."""
    path = tmp_path_factory.mktemp("ablation") / "study"
    path.mkdir()
    make_runs(path)
    stopped = path / "without_D04__s4"
    (stopped / "summary.json").unlink()
    shutil.rmtree(stopped / "checkpoints" / "00000006")
    finished = {name: read_files(path / name) for name in RUNS[:3]}
    messages: list[str] = []
    ablate(tiny(), ["4"], 2, path, log=messages.append)
    assert [line for line in messages if "resuming" in line] == ["resuming without_D04__s4"]
    assert not [line for line in messages if "starting" in line]
    assert {name: read_files(path / name) for name in RUNS[:3]} == finished, (
        "a finished run changed"
    )
    return path


def read(study: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((study / DOCUMENT).read_text())
    return document


def test_arms_differ_only_in_their_switch() -> None:
    config = Config()
    base, *arms = make_arms(config, None, lambda _: None)
    assert (base.name, base.config) == (BASE, config)
    assert len(arms) == len({arm.name for arm in arms}) > 5
    for arm in arms:
        assert arm.detail is not None
        before, after = dataclasses.asdict(config), dataclasses.asdict(arm.config)
        changed = {name: after[name] for name in after if after[name] != before[name]}
        assert changed
        assert changed.items() <= arm.detail.switch.items()


def test_details_have_several_spellings_and_are_taken_once() -> None:
    arms = make_arms(Config(), ["7", "D04", "d4", " 04"], lambda _: None)
    assert [arm.name for arm in arms] == [BASE, "without_D07", "without_D04"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("99", "there is no detail '99'"),
        ("", "there is no detail ''"),
        ("1", "choose from D03"),
        ("9", "--no-clip-vloss changes nothing in this configuration"),
        ("31", "has an effect only with --norm-reward"),
    ],
)
def test_details_that_cannot_be_compared_are_refused(number: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_arms(Config(clip_vloss=False), [number], lambda _: None)


def test_an_unnamed_detail_without_effect_is_left_out_with_a_message() -> None:
    messages: list[str] = []
    names = [arm.name for arm in make_arms(Config(clip_vloss=False), None, messages.append)]
    assert "without_D09" not in names
    assert "without_D08" in names
    assert len(messages) == 1
    assert "left out: D09" in messages[0]
    # A recurrent network has one frame in an observation in any case.
    with pytest.raises(UsageError, match="changes nothing"):
        make_arms(Config(network="lstm"), ["20"], lambda _: None)


def test_an_interrupted_study_resumes_and_finishes(study: Path) -> None:
    document = read(study)
    assert document["complete"]
    assert document["missing"] == []
    summary = json.loads((study / "without_D04__s4" / "summary.json").read_text())
    assert summary["agent_steps"] == tiny().agent_steps


def test_the_document_is_complete(study: Path) -> None:
    document = read(study)
    assert set(document) == set(KEYS.split())
    assert document["seeds"] == [3, 4]
    assert [set(arm) for arm in document["arms"]] == [set(ARM_KEYS.split())] * 2
    base, arm = document["arms"]
    runs = [*base["runs"], *arm["runs"]]
    assert [run["run"] for run in runs] == sorted(RUNS)
    assert [set(run) for run in runs] == [set(RUN_KEYS.split())] * 4
    assert base["score_difference"] is None
    assert arm["switch"] == {"anneal_lr": False}
    gaps = {
        str(mine["seed"]): mine["score"] - other["score"]
        for mine, other in zip(arm["runs"], base["runs"], strict=True)
    }
    assert arm["score_difference"]["by_seed"] == pytest.approx(gaps)
    assert arm["score_difference"]["mean"] == pytest.approx(sum(gaps.values()) / 2)
    low, high = arm["score_difference"]["interval"]
    assert low <= arm["score_difference"]["mean"] <= high
    assert len(document["curve_steps"]) == len(arm["runs"][0]["curve"]) == 6
    assert document["curve_steps"][-1] == document["agent_steps"] == 384


def test_the_figure_names_every_arm(study: Path) -> None:
    from ppo37.suites import ablation_plot as ablation
    from ppo37.tools.figures import DOTS, MEANS

    drawing = ablation.figure(read(study))
    left, right = drawing.axes
    labels = [" ".join(t.get_text().split()) for t in left.get_yticklabels()]
    assert labels == ["without D04 Annealing of the learning rate"]
    assert {t.get_text() for t in right.texts} == {"without D04", "all details"}
    for gid, count in ((DOTS, 1), (MEANS, 1), (ablation.INTERVAL, 1), (ablation.ZERO, 1)):
        assert len([line for line in left.lines if line.get_gid() == gid]) == count
    assert len([line for line in right.lines if line.get_gid() == MEANS]) == 2
    assert (study / PICTURE).stat().st_size > 20_000


def test_seeds_and_details_of_a_study_may_change_but_no_settings(study: Path) -> None:
    with pytest.raises(UsageError, match=r"another configuration \(gamma 0.99, not 0.9\)"):
        ablate(tiny(gamma=0.9), ["4"], 2, study)
    fewer = ablate(tiny(), ["4"], 1, study)[1]
    assert fewer["arms"][1]["score_difference"]["interval"] is None
    assert "no interval: one seed" in fewer["notes"][0]
    again = ablate(tiny(precision="auto"), ["4"], 2, study)[1]
    assert again["config"]["precision"] == "fp32"
    assert len(again["arms"][1]["runs"]) == 2


def test_the_table_contains_the_numbers(study: Path) -> None:
    document = read(study)
    text = table(document)
    for arm in document["arms"]:
        assert f"{arm['label']} " in text
        assert f"{arm['score_mean']:,.2f}" in text
    assert "seeds 3-4" in text
    assert "of twenty, one is expected to miss" in text


def test_a_learning_curve_computed_by_hand() -> None:
    # Four slices of 25 steps: none, 1 and 3, none, 8 and 10 and 12.
    games = [(26, 1.0), (50, 3.0), (76, 8.0), (99, 10.0), (100, 12.0)]
    assert learning_curve(games, 100, 4) == [2.0, 2.0, 2.0, 10.0]
    assert learning_curve([], 100, 4) is None


def test_scores_are_of_the_last_quarter_of_the_steps(tmp_path: Path) -> None:
    config = tiny(total_timesteps=8 * 64)
    games = [
        [],
        [1],
        [],
        [],
        [],
        [9],
        [4],
        [5, 6],
    ]  # by update; the last quarter starts after update 6
    with (tmp_path / "metrics.jsonl").open("w") as log:
        for update, scores in enumerate(games, start=1):
            episodes = [{"env": 0, "return": score, "length": 1} for score in scores]
            line = {
                "update": update,
                "frames": 4 * 64 * update,
                "wall_s": 1.0 * update,
                "episodes": episodes,
            }
            log.write(json.dumps(line) + "\n")
    result = measure(Run(config, tmp_path))
    assert result.curve == [1, 1, 1, 1, 1, 9, 4, 5.5]
    assert result.area == pytest.approx(23.5 / 8)
    assert (result.score, result.games, result.games_judged) == (5.0, 5, 3)
    assert result.wall_s == 8.0


def test_differences_are_taken_in_pairs_of_one_seed() -> None:
    found = difference({1: 5.0, 2: 4.0, 3: 9.0, 4: None}, {1: 3.0, 2: 3.0, 4: 1.0})
    assert found["by_seed"] == {"1": 2.0, "2": 1.0}
    assert found["mean"] == 1.5
    assert found["interval"] == pytest.approx([1.5 - 6.3531, 1.5 + 6.3531], abs=1e-3)
    assert difference({1: 5.0}, {1: 3.0})["interval"] is None
    assert difference({1: 5.0}, {})["mean"] is None


def test_names_at_the_ends_of_curves_do_not_overlap() -> None:
    moved = spread([0.0, 5.0, 5.1, 5.2, 9.9], 1.0, 0.0, 10.0)
    assert moved == pytest.approx([0.0, 4.1, 5.1, 6.1, 9.9])
    assert spread([9.9, 10.0], 1.0, 0.0, 10.0) == pytest.approx([9.0, 10.0])


def test_cores_are_divided_among_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert shares_of_cores(1) == [[]]
    cores = len(os.sched_getaffinity(0))
    shares = shares_of_cores(min(2, cores))
    assert sorted(core for share in shares for core in share) in (
        [],
        sorted(os.sched_getaffinity(0)),
    )
    with pytest.raises(UsageError, match="at most"):
        shares_of_cores(cores + 1)


MISTAKES = [
    (("--details", "99"), "there is no detail '99'"),
    (("--details", "9", "--no-clip-vloss"), "changes nothing"),
    (("--action-space", "joystick"), "catch needs action_space discrete"),
    (("--mask-actions",), "catch has no actions to mask"),
    (("--seeds", "0"), "seeds must be at least 1"),
    (("--jobs", "0"), "--jobs must be at least 1"),
    (("--seed", "4294967295", "--seeds", "2"), "seed must be at most"),
    (("--out", "full"), "has no ablation.json"),
    (("--out", "full/file"), "cannot use"),
]


@pytest.mark.parametrize(("args", "expected"), MISTAKES)
def test_a_mistake_gives_one_line_and_writes_nothing(
    args: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        main(["ablate", "catch", "--preset", "debug", "--details", "4", *args])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out, len(err.splitlines())) == (2, "", 1), err
    assert expected in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_a_run_with_other_settings_is_refused(study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "study"))
    shutil.rmtree(copy / "all__s4")
    shutil.copytree(copy / "all__s3", copy / "all__s4")
    with pytest.raises(UsageError, match="all__s4 is a run of other settings"):
        ablate(tiny(), ["4"], 2, copy)


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    copy = Path(shutil.copytree(study, tmp_path / "study"))
    (copy / "all__s3" / "summary.json").unlink()
    for saved in (copy / "all__s3" / "checkpoints").glob("*/model.safetensors"):
        saved.write_bytes(b"damaged")
    (copy / "without_D04__s4" / "summary.json").unlink()
    with pytest.raises(RunError, match=r"1 of 4 runs failed.*all__s3"):
        ablate(tiny(), ["4"], 2, copy, jobs=min(2, len(os.sched_getaffinity(0))))
    document = read(copy)
    assert document["missing"] == ["all__s3"]
    assert document["arms"][1]["score_difference"]["by_seed"].keys() == {"4"}


@pytest.mark.slow
def test_a_signal_stops_a_study_with_checkpoints(tmp_path: Path) -> None:
    args = ["ablate", "catch", *SETTINGS, "--details", "4", "--preset", "classic", "--json"]
    more = ["--total-timesteps", "1000000", "--seeds", "1", "--out", str(tmp_path / "study")]
    process = subprocess.Popen(
        [sys.executable, "-m", "ppo37", *args, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "study" / "all__s3" / "metrics.jsonl"
    wait_for_first_update(log.parent)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (143, ""), err
    assert "Traceback" not in err
    assert "repeat the command" in err
    assert list((tmp_path / "study" / "all__s3" / "checkpoints").glob("0*"))
    assert not read(tmp_path / "study")["complete"]
    assert not (tmp_path / "study" / "without_D04__s3").exists()


def test_json_is_one_object(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--details", "4", "--seeds", "2", "--preset", "classic", "--json")
    with pytest.raises(SystemExit) as exit_:
        main(["ablate", "catch", *args, *SETTINGS, "--out", str(study)])
    out, err = capsys.readouterr()
    assert exit_.value.code == 0, err
    document = json.loads(out)
    assert document["path"] == str(study)
    assert {name: document[name] for name in document if name != "path"} == read(study)
