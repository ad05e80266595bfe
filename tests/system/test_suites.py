"""Suites: real runs in processes of their own, which survive what happens to the command."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from conftest import (
    LIMIT_S,
    TINY,
    child_environment,
    fingerprint_and_log,
    read_files,
    run_command,
    suite_command,
    tiny,
    tiny_options,
    tiny_plan,
    wait_for_first_update,
    wait_until,
)

from ppo37 import train
from ppo37.backends.device import commit
from ppo37.cli import main
from ppo37.errors import UsageError
from ppo37.session.directory import is_locked
from ppo37.session.metrics import read_metrics
from ppo37.suites.engine import Grid
from ppo37.suites.plan import Arm, Plan
from ppo37.suites.room import Needs
from ppo37.suites.suite import suite
from ppo37.suites.suite_results import Suite, TrainedArm, write_results
from ppo37.tools.callbacks import first_reached

NEEDS = Needs(1, 1)

SETTINGS = tiny_options(*(name for name in TINY if name not in ("game", "seed")))
VARIANTS = "[variants.base]\n[variants.other]\ngamma = 0.9\n"
PLAN = tiny_plan("3-4", threads=None) + VARIANTS
RUNS = ["base__catch__s3", "other__catch__s3", "base__catch__s4", "other__catch__s4"]


def command(folder: Path, *arguments: str) -> list[str]:
    return suite_command(folder, PLAN, "--out", str(folder / "suite"), *arguments)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(folder, *arguments),
        capture_output=True,
        text=True,
        env=child_environment(),
        timeout=LIMIT_S,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished suite of two variants and two seeds, whose runs were trained one by one."""
    path = tmp_path_factory.mktemp("whole") / "suite"
    base = tiny(preset="classic", seed=1)
    configs = {"base": base, "other": replace(base, gamma=0.9)}
    arms = {
        f"{name}__catch": TrainedArm(name, replace(config, threads=None), config, NEEDS)
        for name, config in configs.items()
    }
    grid = Grid(path, {name: arm.config for name, arm in arms.items()}, [3, 4])
    for each in grid.runs:
        train(each.config, each.path, checkpoint_every=2)
    write_results(Suite(grid, arms, None, {}, {}))
    return path


def document_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "suite.json").read_text())
    return found


def test_the_results_are_those_of_the_runs(whole: Path) -> None:
    document = document_of(whole)
    assert document["complete"]
    assert [arm["name"] for arm in document["arms"]] == ["base__catch", "other__catch"]
    summaries = {
        name: json.loads((whole / name / "summary.json").read_text())["last_100_mean"]
        for name in RUNS
    }
    assert {run["run"]: run["score"] for run in document["runs"]} == summaries
    with (whole / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["run"]: float(row["score"]) for row in rows} == pytest.approx(summaries)
    page = (whole / "results.md").read_text()
    mean = (summaries[RUNS[0]] + summaries[RUNS[2]]) / 2
    assert re.search(rf"\| base +\| Catch +\| {mean:,.2f} +\|", page)
    for part in ("Protocol: classic", "Seeds: 3-4", "torch 2.", "Processor: ", "Commit "):
        assert part in page
    commits = {run["commit"] for run in document["runs"]}
    assert commits == {commit()}
    assert f"Commit {commit()}; " in page


def test_a_run_of_another_machine_is_not_exact(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite")
    for name, changes in ((RUNS[1], {"cpu": "Abacus"}), (RUNS[2], {"cores": 0})):
        document = json.loads((copy / name / "config.json").read_text())
        document["machine"] |= changes
        (copy / name / "config.json").write_text(json.dumps(document))
    (tmp_path / "plan.toml").write_text(PLAN)
    with pytest.raises(SystemExit, match="0"):
        main(["suite", str(tmp_path / "plan.toml"), "--out", str(copy)])
    exact = {run["run"]: run["exact"] for run in document_of(copy)["runs"]}
    assert exact == {name: name in (RUNS[0], RUNS[3]) for name in RUNS}
    page = (copy / "results.md").read_text()
    assert f"are too few: {RUNS[2]} and {RUNS[1]}." in page
    assert "Abacus" in page


def test_the_same_command_trains_only_what_is_missing(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite")
    (copy / RUNS[3] / "summary.json").unlink()
    shutil.rmtree(copy / RUNS[3] / "checkpoints")
    (copy / RUNS[3] / "checkpoints").mkdir()
    (copy / RUNS[3] / "metrics.jsonl").unlink()
    before = {name: read_files(copy / name) for name in RUNS[:3]}
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "starting" in line or "resum" in line] == [
        f"ppo37: resuming {RUNS[3]}"
    ]
    assert {name: read_files(copy / name) for name in RUNS[:3]} == before
    assert fingerprint_and_log(copy / RUNS[3]) == fingerprint_and_log(whole / RUNS[3])
    assert (copy / "compare" / "games.png").stat().st_size > 10_000
    assert "| other " in (copy / "compare" / "table.md").read_text()


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_rest_finishes(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite")
    for name in RUNS[2:]:
        (copy / name / "summary.json").unlink()
    for saved in (copy / RUNS[2] / "checkpoints").glob("*/model.safetensors"):
        saved.write_bytes(b"damaged")
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"ppo37: 1 of 4 runs failed, the first is {RUNS[2]}"
    )
    runs = {run["run"]: run for run in document_of(copy)["runs"]}
    assert (runs[RUNS[2]]["finished"], runs[RUNS[3]]["finished"]) == (False, True)
    assert f"Not finished: {RUNS[2]} (" in (copy / "results.md").read_text()


@pytest.mark.slow
def test_parts_of_a_prepared_suite_with_two_threads(tmp_path: Path) -> None:
    """Each run has as many cores as threads, so at most one is trained at the same time."""
    plan = PLAN.replace("[settings]", "[settings]\nthreads = 2")
    (tmp_path / "plan.toml").write_text(plan)
    out = tmp_path / "suite"
    arguments = ["-m", "ppo37", "suite", str(tmp_path / "plan.toml"), "--out", str(out)]
    environment = {**child_environment(), "OMP_NUM_THREADS": "2"}

    def part(*more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments, *more],
            capture_output=True,
            text=True,
            env=environment,
            timeout=LIMIT_S,
        )

    refused = part("--part", "0/3")
    assert refused.returncode == 2
    assert "needs a suite that is prepared" in refused.stderr
    prepared = part("--prepare")
    assert prepared.returncode == 0, prepared.stderr
    assert f"prepared {out}" in prepared.stderr
    assert not list(out.glob("*__s?"))
    for number, runs in enumerate(([RUNS[0], RUNS[3]], [RUNS[1]], [RUNS[2]])):
        done = part("--part", f"{number}/3")
        assert done.returncode == 0, done.stderr
        assert ", one after the other on 2 cores" in done.stderr.splitlines()[0]
        assert done.stdout == f"part {number}/3 of {out} has finished\n"
        assert all((out / name / "summary.json").exists() for name in runs)
    assert not document_of(out)["complete"]
    assert part().returncode == 0
    document = document_of(out)
    assert document["complete"]
    assert all(run["exact"] for run in document["runs"])


def test_damaged_results_of_a_run_are_named(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite")
    (tmp_path / "plan.toml").write_text(PLAN)
    for name, file, key, value in (
        (RUNS[0], "summary.json", "last_100_mean", "many"),
        (RUNS[1], "config.json", "machine", None),
        (RUNS[2], "summary.json", "wall_s", "long"),
    ):
        document = json.loads((copy / name / file).read_text())
        (copy / name / file).write_text(json.dumps({**document, key: value}))
    command = ("suite", str(tmp_path / "plan.toml"), "--out", str(copy))
    code, _, err = run_command(capsys, *command)
    assert code == 1
    assert err.splitlines()[-1].startswith(
        f"ppo37: 3 of 4 runs failed, the first is {RUNS[0]}: {copy / RUNS[0]}/summary.json is damag"
    )


def test_another_command_may_not_change_a_suite_meanwhile(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite")
    config = tiny(preset="classic", seed=1, threads=None)
    arms = {"base__catch": config, "other__catch": replace(config, gamma=0.9)}
    plan = Plan({n: Arm(n.partition("__")[0], each) for n, each in arms.items()}, [3, 4, 5], None)

    def changes(*_: Any) -> None:
        document = {**document_of(copy), "seeds": [3, 4, 6]}
        (copy / "suite.json").write_text(json.dumps(document))

    monkeypatch.setattr(sys.modules["ppo37.suites.suite"], "require_room", changes)
    with pytest.raises(UsageError, match="another command has changed"):
        suite(plan, copy)


def test_first_weights_are_part_of_a_suite(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are read before anything is written, and are the same for all runs."""
    out = tmp_path / "runs"
    command = ["train", "catch", "--seeds", "3-4", *SETTINGS, "--out", str(out)]
    code, _, err = run_command(capsys, *command, "--init-from", str(tmp_path / "none"))
    assert code == 2
    assert err.splitlines()[-1] == f"ppo37: {tmp_path / 'none'} does not exist"
    assert not out.exists()
    config = tiny(preset="classic", threads=1)
    arm = Arm("", replace(config, threads=None))
    plan = Plan({"catch": arm}, [3, 4], None)
    for origin in ({}, {"init_from": "a"}):
        suite(plan, tmp_path / f"{len(origin)}", prepare=True, origin=origin)
        with pytest.raises(UsageError, match="of other first weights"):
            suite(plan, tmp_path / f"{len(origin)}", prepare=True, origin={"init_from": "b"})


MISTAKES = [
    (["--ent-coef", "0.5"], "has other settings (ent_coef 0.01, not 0.5)"),
    (["--seeds", "4-5"], "with seed 3; name all"),
    (["--games", "pong"], "with base__catch, other__catch; name all"),
    (["--budget", "10m"], "budget and total_timesteps exclude"),
    (["--out", "{tmp}"], "is not empty and has no suite.json"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_another_plan_is_refused_and_nothing_changes(
    arguments: list[str],
    message: str,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = read_files(whole)
    (tmp_path / "plan.toml").write_text(PLAN)
    options = [text.format(tmp=tmp_path) for text in arguments]
    with pytest.raises(SystemExit) as exit_:
        main(["suite", str(tmp_path / "plan.toml"), "--out", str(whole), *options])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, ""), err
    assert message in err.splitlines()[-1]
    assert read_files(whole) == before


def highest_mean(run: Path) -> float:
    """Return the highest mean of 20 games in a row after an update, of a run of catch."""
    scores, highest = list[float](), 0.0
    for record in read_metrics(run):
        scores += [game["return"] for game in record["episodes"]]
        highest = max(highest, mean(scores[-20:]) if len(scores) >= 20 else 0.0)
    return highest


def test_a_suite_whose_runs_stop_at_a_score(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The score is one that two of the four runs reach; the runs of `whole` go on after it."""
    score = sorted(highest_mean(whole / name) for name in RUNS)[2]
    (tmp_path / "plan.toml").write_text(f"until = {score}\n{PLAN}")
    out = tmp_path / "suite"
    command = ("suite", str(tmp_path / "plan.toml"), "--out", str(out), "--json")
    code, printed, err = run_command(capsys, *command)
    assert code == 0, err
    document = json.loads(printed)
    assert sorted(run["reached"] for run in document["runs"]) == [False, False, True, True]
    for run in document["runs"]:
        log = read_metrics(whole / run["run"])
        expected = first_reached(log, score) or log[-1]
        assert run["agent_steps"] == expected["agent_steps"]
        assert run["reached"] == (highest_mean(whole / run["run"]) >= score)
    assert "2 of 4 runs have reached it" in (out / "results.md").read_text()

    # As after a signal during the last update: the log tells whether the score was reached.
    summary = json.loads((out / RUNS[0] / "summary.json").read_text())
    summary = {n: v for n, v in summary.items() if n != "until"} | {"stopped_by": None}
    (out / RUNS[0] / "summary.json").write_text(json.dumps(summary | {"finished": True}))
    code, printed, err = run_command(capsys, *command)
    assert code == 0
    assert not re.search("starting|resuming", err)
    assert [r["reached"] for r in json.loads(printed)["runs"]] == [
        run["reached"] for run in document["runs"]
    ]
    code, _, err = run_command(capsys, "compare", str(out))
    assert (code, "had a score to stop at" in err) == (2, True)
    before = read_files(out)
    for other, message in (("0.5", "another plan (until"), ("11", "highest score of catch is 10")):
        code, _, err = run_command(capsys, *command, "--until", other)
        assert (code, message in err) == (2, True), err
    assert read_files(out) == before


def test_a_mistake_in_a_plan_names_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace('"catch"', '"cach"'))
    code, _, err = run_command(capsys, "suite", str(plan))
    assert code == 2
    assert f"{plan}: unknown game 'cach'" in err
    code, _, err = run_command(capsys, "suite", str(plan), "--games", "pnog")
    assert code == 2
    assert "unknown game 'pnog'" in err
    assert str(plan) not in err  # the option is wrong, not the file


def test_another_folder_in_the_place_of_a_run_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(whole, tmp_path / "suite")
    shutil.rmtree(copy / RUNS[3])
    (copy / RUNS[3] / "mine").mkdir(parents=True)
    (tmp_path / "plan.toml").write_text(PLAN)
    before = read_files(copy)
    code, _, err = run_command(capsys, "suite", str(tmp_path / "plan.toml"), "--out", str(copy))
    assert code == 2
    assert err.splitlines()[-1].endswith(f"{RUNS[3]} exists and is not empty; choose another --out")
    assert read_files(copy) == before


def test_a_stranger_s_suite_imports_nothing(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file names a network; the plan does not, or the user has not typed it."""
    copy = shutil.copytree(whole, tmp_path / "suite")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'stolen')!r}, 'w').close()\n")
    name = f"{tmp_path / 'evil.py'}:Net"
    document = document_of(copy)
    document["arms"][1]["config"]["network"] = name
    (copy / "suite.json").write_text(json.dumps(document))
    shutil.rmtree(copy / RUNS[3])
    own = PLAN.replace('network = "nature_half"', f"network = {name!r}")
    for text, message in ((PLAN, "has other settings (network"), (own, "has other settings")):
        (tmp_path / "plan.toml").write_text(text)
        with pytest.raises(SystemExit) as exit_:
            main(["suite", str(tmp_path / "plan.toml"), "--out", str(copy)])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    for arm in document["arms"]:
        arm["asked"]["network"] = arm["config"]["network"] = name
    (copy / "suite.json").write_text(json.dumps(document))
    with pytest.raises(SystemExit) as exit_:
        main(["suite", str(tmp_path / "plan.toml"), "--out", str(copy)])
    assert exit_.value.code == 2
    assert "which only you may name" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "stolen").exists()


def ended(folder: Path) -> bool:
    """Return whether no process trains in the runs any more."""
    return not any(is_locked(path) for path in (folder / "suite").glob("*__s?"))


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["command", "all processes"])
def test_kills_at_any_moment_do_not_change_a_result(
    group: bool, whole: Path, tmp_path: Path
) -> None:
    """The command alone is killed, or with all runs at once, as when a machine loses its power."""
    began = time.monotonic()
    assert run(tmp_path, "--checkpoint-every", "1").returncode == 0
    lasts_s = time.monotonic() - began
    rng = random.Random(1)
    kills = 0
    while kills < 25:
        shutil.rmtree(tmp_path / "suite", ignore_errors=True)
        finished = False
        while not finished:
            process = subprocess.Popen(
                command(tmp_path, "--checkpoint-every", "1"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,
            )
            try:
                finished = process.wait(rng.uniform(0.1, 1.2) * lasts_s) == 0
                assert finished
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
                process.wait()
                kills += 1
        wait_until(lambda: ended(tmp_path))
        for name in RUNS:
            assert fingerprint_and_log(tmp_path / "suite" / name) == fingerprint_and_log(
                whole / name
            )
    print(f"{kills} kills, all results identical")


@pytest.mark.slow
def test_a_signal_stops_the_suite_with_checkpoints(tmp_path: Path) -> None:
    text = PLAN.replace("total_timesteps = 384", "total_timesteps = 1_000_000")
    arguments = command(tmp_path, "--jobs", "1")
    (tmp_path / "plan.toml").write_text(text)
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    wait_for_first_update(tmp_path / "suite" / RUNS[0])
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (143, ""), err
    assert "repeat the command" in err
    assert list((tmp_path / "suite" / RUNS[0] / "checkpoints").glob("0*"))
    assert not document_of(tmp_path / "suite")["complete"]


@pytest.mark.slow
def test_several_seeds_of_one_game(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "catch", "--seeds", "3-4", *SETTINGS, "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--eval-every", "192", "--eval-episodes", "1", "--json"])
    out, err = capsys.readouterr()
    assert exit_.value.code == 0, err
    assert [run["run"] for run in json.loads(out)["runs"]] == ["catch__s3", "catch__s4"]
    for name in ("catch__s3", "catch__s4"):
        assert (tmp_path / "runs" / name / "evaluations.jsonl").exists()


@pytest.mark.slow
def test_a_budget_is_the_same_number_of_steps_for_all_seeds(tmp_path: Path) -> None:
    plan = Plan({"catch": Arm("", tiny(total_timesteps=10**12))}, [1, 2], "30s")
    lines: list[str] = []
    path, document = suite(plan, tmp_path / "suite", log=lines.append)
    (arm,) = document["arms"]
    steps = arm["config"]["total_timesteps"]
    assert steps >= 10 * 64
    assert [run["agent_steps"] for run in document["runs"]] == [steps, steps]
    assert any("fit in 30s" in line for line in lines)
    lines.clear()
    again = suite(plan, path, log=lines.append)[1]
    assert again["arms"] == document["arms"]
    assert not any("measuring" in line for line in lines)
