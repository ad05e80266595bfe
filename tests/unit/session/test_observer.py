"""Observers: they see a run and may stop it, and nothing that they do changes its result."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fingerprint_and_log, log_without_times, run_command, tiny, train_arguments
from torch import nn

from ppo37 import Config, MaxTime, Observer, evaluate, load_agent, resume, train
from ppo37.errors import RunError, Stopped, UsageError
from ppo37.session.metrics import read_metrics
from ppo37.session.observer import OF_SUMMARY, Progress, RunStart
from ppo37.session.view import ConsoleView, NoView, View, view_of
from ppo37.tools.plots import figure, read_history


class StopsAfter(Observer):
    """A callback that stops after an update."""

    def __init__(self, update: int) -> None:
        self.last = update

    def update(self, progress: Progress) -> str | None:
        return "enough\nof it" if progress.record["update"] == self.last else None


class OwnFile(Observer):
    """A logger that writes a file of its own, and counts what it is asked."""

    def start(self, run: RunStart) -> None:
        self.calls = ["start"]
        self.file = (run.path / "scores.txt").open("a")
        assert (run.config.game, run.agent_steps) == ("catch", 64 * run.update)

    def update(self, progress: Progress) -> None:
        record = progress.record
        self.file.write(f"{record['update']} {record['losses/entropy']}\n")
        assert not progress.agent.training or progress.games >= 0

    def sync(self) -> None:
        self.calls.append("sync")
        self.file.flush()

    def finish(self) -> dict[str, Any]:
        self.calls.append("finish")
        return {"lines": 6}

    def close(self) -> None:
        self.calls.append("close")
        self.file.close()


def summary_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def test_a_logger_writes_its_own_file(tmp_path: Path) -> None:
    run, logger = tmp_path / "run", OwnFile()
    train(tiny(), run, checkpoint_every=2, callbacks=[logger])
    expected = [f"{r['update']} {r['losses/entropy']}" for r in log_without_times(run)]
    assert (run / "scores.txt").read_text().splitlines() == expected
    assert logger.calls == ["start", "sync", "sync", "sync", "finish", "close"]
    assert summary_of(run)["lines"] == 6


def test_a_callback_stops_a_run_that_resume_finishes(finished_run: Path, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", list[str]()

    class Notes(NoView):
        def note(self, text: str) -> None:
            notes.append(text)

    summary = train(tiny(), run, callbacks=[StopsAfter(3)], keep=1)
    assert (summary.finished, summary.stopped_by, summary.agent_steps) == (
        False,
        "enough of it",
        192,
    )
    assert (summary_of(run)["stopped_by"], summary_of(run)["finished"]) == ("enough of it", False)
    assert load_agent(run).state["update"] == 3
    summary = resume(run, view=Notes(), checkpoint_every=1, keep=2)
    assert [note for note in notes if "stopped by enough of it" in note and "--max-time" in note]
    assert (summary.finished, summary.stopped_by) == (True, None)
    assert summary_of(run)["stopped_by"] is None
    assert fingerprint_and_log(run) == fingerprint_and_log(finished_run)
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_a_time_limit_ends_a_run_with_exit_code_0(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code, out, err = run_command(
        capsys, *train_arguments(tiny(), run, "--max-time", "0.001s", "--json")
    )
    assert code == 0
    assert "stopped by max_time after 64 agent steps" in err
    assert "next: ppo37 resume" in err
    assert (json.loads(out)["stopped_by"], json.loads(out)["finished"]) == ("max_time", False)
    code, _, err = run_command(capsys, "resume", str(run))
    assert code == 0
    assert "stopped by max_time" in err
    assert fingerprint_and_log(run) == fingerprint_and_log(finished_run)
    with pytest.raises(UsageError, match="--max-time takes"):
        MaxTime("soon")


def test_a_fault_in_a_callback_leaves_a_checkpoint(
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "faulty.py").write_text(
        "from ppo37 import Observer\n\n\n"
        "class Fails(Observer):\n"
        "    def update(self, progress):\n"
        "        1 / (progress.record['update'] - 3)\n"
    )
    run = tmp_path / "run"
    code, _, err = run_command(capsys, *train_arguments(tiny(), run, "--logger", "faulty:Fails"))
    assert code == 1
    assert err.splitlines()[-1] == (
        "ppo37: the callback Fails.update failed: ZeroDivisionError: division by zero"
    )
    assert load_agent(run).state["update"] == 3
    assert resume(run).finished
    assert fingerprint_and_log(run) == fingerprint_and_log(finished_run)


def add_to_a_weight(agent: nn.Module) -> None:
    with torch.no_grad():
        next(agent.parameters()).add_(1)


def add_to_the_statistics(agent: nn.Module) -> None:
    for buffer in agent.buffers():
        buffer.add_(1)


def freeze(agent: nn.Module) -> None:
    agent.requires_grad_(False)


@pytest.mark.parametrize("change", [add_to_a_weight, add_to_the_statistics, freeze])
def test_a_callback_that_changes_the_agent_is_refused(
    change: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    class Changes(Observer):
        def update(self, progress: Progress) -> None:
            change(progress.agent)

    config = tiny(norm_reward=True, clip_rewards=False)
    with pytest.raises(RunError, match=r"the callback Changes.update has changed the agent"):
        train(config, tmp_path / "run", callbacks=[Changes()])


def test_gradients_that_a_callback_turns_off_are_turned_on_again(
    finished_run: Path, tmp_path: Path
) -> None:
    class TurnsOff(Observer):
        def start(self, run: RunStart) -> None:
            torch.set_grad_enabled(False)

        def update(self, progress: Progress) -> None:
            torch.set_grad_enabled(False)

    train(tiny(), tmp_path / "run", callbacks=[TurnsOff()])
    assert torch.is_grad_enabled()
    assert fingerprint_and_log(tmp_path / "run") == fingerprint_and_log(finished_run)


def test_a_callback_that_exits_is_named_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    class Exits(Observer):
        def update(self, progress: Progress) -> None:
            sys.exit(9)

    with pytest.raises(RunError, match=r"the callback Exits.update failed: SystemExit: 9"):
        train(tiny(), tmp_path / "run", callbacks=[Exits()])
    assert load_agent(tmp_path / "run").state["update"] == 1


@pytest.mark.parametrize(
    ("results", "fault"),
    [
        ([1, 2], "list, not a dict or None"),
        ({3: 1}, "the key 3, which is not a text"),
        ({"finished": False}, "finished, which summary.json has already"),
        ({"x": float("nan")}, "what JSON cannot have"),
        ({"x": object()}, "what JSON cannot have"),
    ],
)
def test_results_that_do_not_fit_the_summary_are_refused(
    results: Any, fault: str, tmp_path: Path
) -> None:
    class Finishes(Observer):
        def finish(self) -> Any:
            return results

    config = tiny(total_timesteps=64)
    with pytest.raises(RunError, match=f"the callback Finishes.finish returned {fault}"):
        train(config, tmp_path / "run", callbacks=[Finishes()])
    summary = summary_of(tmp_path / "run")
    assert (summary["finished"], set(summary)) == (True, OF_SUMMARY)


def test_an_interrupt_raises_after_the_checkpoint_is_saved(tmp_path: Path) -> None:
    class Interrupts(Observer):
        def update(self, progress: Progress) -> None:
            if progress.record["update"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

    class Inside(Observer):
        """A callback that is interrupted in work of its own, as an evaluation is."""

        def update(self, progress: Progress) -> None:
            raise Stopped(signal.SIGTERM)

    for callback, update, name in ((Interrupts(), 2, "SIGINT"), (Inside(), 1, "SIGTERM")):
        run = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), run, callbacks=[callback])
        assert load_agent(run).state["update"] == update
        assert summary_of(run)["stopped_by"] == name


def test_training_in_another_thread_is_the_same(finished_run: Path, tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(train(tiny(), tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].finished
    assert fingerprint_and_log(tmp_path / "run") == fingerprint_and_log(finished_run)


def test_a_view_with_the_methods_of_before_works(tmp_path: Path) -> None:
    calls: list[str] = []

    class Mine(View):
        def __init__(self) -> None:
            self.start = 0.0  # type: ignore[assignment]  # a name that views of before may use

        def announce(
            self, config: Config, path: Path, reason: str, expected_s: float | None
        ) -> None:
            calls.append(f"announce {config.game} {path.name}: {reason}")

        def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
            assert seconds["update"] > 0
            calls.append(f"show {record['update']}")

        def note(self, text: str) -> None:
            calls.append("note")

        def close(self) -> None:
            calls.append("close")

    train(tiny(total_timesteps=128), tmp_path / "run", view=Mine())
    assert calls == ["announce catch run: as asked", "show 1", "show 2", "close"]
    calls.clear()
    resume(tmp_path / "run", view=Mine())
    assert calls == ["note", "close"], "a finished run is not announced"


def test_the_view_is_the_console_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = NoView()
    assert view_of(mine) is mine
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert isinstance(view_of("auto"), NoView), "the tests have no terminal"
    monkeypatch.setitem(sys.modules, "ipykernel", threading)
    assert isinstance(view_of("auto"), ConsoleView)
    assert isinstance(view_of(None), NoView)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-time", "1h", "--budget", "1h"], "--budget and --max-time exclude each other"),
        (["--keep-best"], "--keep-best needs evaluations; add --eval-every"),
        (["--eval-episodes", "3"], "add --eval-every"),
        (["--keep", "0"], "--keep must be at least 1"),
        (["--eval-every", "0"], "--eval-every must be at least 1"),
        (["--max-time", "1x"], "--max-time takes a time such as"),
        (["--logger", "json:JSONDecoder"], "is not a class of ppo37.Observer"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, *train_arguments(tiny(), tmp_path / "run", *options))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong", [{"callbacks": [Observer]}, {"callbacks": Observer()}, {"view": 3}, {"keep": 0}]
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"Observer\(\)|must be a list|not an object of a class|at least 1"
    ):
        train(tiny(), tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_a_log_of_before_with_four_frames_a_step_is_read_and_resumed(
    finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny(), run, checkpoint_every=2, callbacks=[StopsAfter(4)])
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    old = [{**record, "frames": 4 * record["agent_steps"]} for record in records]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in old))
    resume(run)
    frames = [record["frames"] for record in read_metrics(run)]
    assert frames == [256, 512, 768, 1024, 320, 384]
    assert summary_of(run)["frames"] == 384
    history, whole = read_history(run), read_history(finished_run)
    assert history.frames.tolist() == whole.frames.tolist()
    pytest.importorskip("matplotlib")
    assert figure([history]).axes[0].get_xlabel() == "agent steps (millions)"
    assert evaluate(run, 2).agent_steps == 384
