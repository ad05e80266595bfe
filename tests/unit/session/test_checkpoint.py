"""Checkpoints are complete or absent, and damaged ones are never loaded."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL_STATE, TESTS, read_files, tiny

from ppo37 import evaluate, load_agent, resume, train
from ppo37.errors import RunError, UsageError
from ppo37.session import checkpoint, directory, files
from ppo37.session.checkpoint_format import FORMAT, Damaged
from ppo37.session.metrics import read_metrics
from ppo37.session.view import NoView


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, which tests may damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def _small(path: Path) -> Path:
    tensors = {"a": torch.arange(5.0), "b": torch.ones(2, 3)}
    return checkpoint.save(path, tensors, {"a/step": torch.tensor(3.0)}, SMALL_STATE)


def test_round_trip(tmp_path: Path) -> None:
    saved = checkpoint.load(_small(tmp_path / "00000007"))
    assert saved.state == SMALL_STATE
    assert torch.equal(saved.model["a"], torch.arange(5.0))
    assert torch.equal(saved.optimizer["a/step"], torch.tensor(3.0))


def test_nothing_in_a_checkpoint_can_be_executed(finished_run: Path) -> None:
    for folder in checkpoint.numbered(finished_run / "checkpoints"):
        assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("missing", ["model.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    folder = _small(tmp_path / "00000007")
    (folder / missing).unlink()
    with pytest.raises(Damaged, match=missing):
        checkpoint.load(folder)


def test_the_newest_valid_checkpoint_is_loaded_with_a_warning(run: Path) -> None:
    newest = checkpoint.numbered(run / "checkpoints")[0]
    path = newest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    notes: list[str] = []
    assert load_agent(run, warn=notes.append).state["update"] == 4
    assert len(notes) == 1
    assert newest.name in notes[0]
    assert resume(run).agent_steps == 384
    assert load_agent(run).state["update"] == 6


def test_a_run_without_a_valid_checkpoint_is_not_restarted(run: Path) -> None:
    for folder in checkpoint.numbered(run / "checkpoints"):
        (folder / "state.json").write_text("{}")
    with pytest.raises(Damaged, match="no valid checkpoint"):
        resume(run)


def test_a_run_stopped_before_its_first_checkpoint_starts_again(run: Path) -> None:
    for folder in checkpoint.numbered(run / "checkpoints"):
        shutil.rmtree(folder)
    notes: list[str] = []

    class Notes(NoView):
        def note(self, text: str) -> None:
            notes.append(text)

    assert resume(run, view=Notes()).agent_steps == 384
    assert notes[0] == "no checkpoint was saved yet: training starts from the beginning"
    assert "are now in" in notes[1]  # they may have been lost
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 6


def _sign(folder: Path, number: int) -> None:
    """Give the manifest of a checkpoint another format number, with a valid SHA-256."""
    listing = json.loads((folder / "manifest.json").read_text()) | {"format": number}
    del listing["sha256"]
    own = hashlib.sha256(files.to_json(listing)).hexdigest()
    (folder / "manifest.json").write_bytes(files.to_json({**listing, "sha256": own}))


def test_a_checkpoint_that_may_be_valid_is_not_skipped_or_deleted(run: Path) -> None:
    """Another version may have written it, or a disk may be missing for a while."""
    newest = checkpoint.numbered(run / "checkpoints")[0]
    before = {path: path.read_bytes() for path in newest.iterdir()}
    _sign(newest, FORMAT)
    assert (newest / "manifest.json").read_bytes() == before[newest / "manifest.json"]
    _sign(newest, 99)
    with pytest.raises(UsageError, match="format 99; this version of ppo37 reads") as caught:
        resume(run)
    assert not isinstance(caught.value, Damaged)
    _sign(newest, FORMAT)
    model = newest / "model.safetensors"
    model.unlink()
    model.symlink_to(model)  # not even root can open this
    with pytest.raises(UsageError, match="cannot be read: Too many levels") as caught:
        resume(run)
    assert not isinstance(caught.value, Damaged)
    model.unlink()
    model.write_bytes(before[model])
    assert {path: path.read_bytes() for path in newest.iterdir()} == before
    assert len(checkpoint.numbered(run / "checkpoints")) == 3


def test_a_log_without_the_update_of_the_checkpoint_is_not_cut(run: Path) -> None:
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], "damaged", *lines[2:]]))
    before = read_files(run)
    with pytest.raises(UsageError, match="damaged in line 2"):
        resume(checkpoint.numbered(run / "checkpoints")[-1])
    assert read_files(run) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [({"game": "pong"}, "game"), ({"network": "nature"}, "network"), ({"actions": 1}, "actions")],
)
def test_a_checkpoint_of_something_else_is_refused(
    change: dict[str, object], named: str, run: Path
) -> None:
    for folder in checkpoint.numbered(run / "checkpoints"):
        saved = checkpoint.load(folder)
        state = {**saved.state, "config": {**saved.state["config"], **change}}
        if named == "actions":
            state = {**saved.state, "action_names": ["UP", "DOWN", "FIRE"]}
        checkpoint.save(folder, saved.model, saved.optimizer, state, saved.actions)
    with pytest.raises(UsageError, match=f"another {named}"):
        resume(run)


def test_other_versions_give_a_warning(run: Path) -> None:
    notes: list[str] = []

    class Notes(NoView):
        def note(self, text: str) -> None:
            notes.append(text)

    for folder in checkpoint.numbered(run / "checkpoints"):
        saved = checkpoint.load(folder)
        versions = {**saved.state["versions"], "torch": "1.0"}
        checkpoint.save(
            folder,
            saved.model,
            saved.optimizer,
            {**saved.state, "versions": versions},
            saved.actions,
        )
    resume(run, view=Notes())
    assert [note for note in notes if "since the checkpoint" in note] == notes[:1]
    assert "torch changed from 1.0 to" in notes[0]


def test_a_run_on_too_few_cores_is_not_called_exact(tmp_path: Path) -> None:
    """For example on another machine; a test has one core, see conftest.py."""
    notes: list[str] = []

    class Notes(NoView):
        def note(self, text: str) -> None:
            notes.append(text)

    train(tiny(threads=2), tmp_path / "run", checkpoint_every=3)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exact"]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000006")
    resume(tmp_path / "run", view=Notes())
    assert "the run has 2 threads, and only 1 can be used here" in notes[0]
    assert not json.loads((tmp_path / "run" / "summary.json").read_text())["exact"]


def test_weights_of_another_shape_are_refused(run: Path) -> None:
    folder = checkpoint.numbered(run / "checkpoints")[0]
    saved = checkpoint.load(folder)
    model = {**saved.model, "value_head.weight": torch.zeros(1, 7)}
    checkpoint.save(folder, model, saved.optimizer, saved.state, saved.actions)
    with pytest.raises(UsageError, match="value_head"):
        load_agent(folder)


def test_a_published_agent_plays_and_does_not_resume(run: Path, tmp_path: Path) -> None:
    saved = checkpoint.load_newest(run / "checkpoints")[0]
    agent = checkpoint.export(saved, tmp_path / "agent")
    assert {path.name for path in agent.iterdir()} == {
        "model.safetensors",
        "state.json",
        "manifest.json",
    }
    assert evaluate(agent, episodes=3).scores == evaluate(run, episodes=3).scores
    with pytest.raises(UsageError, match="is a published agent"):
        resume(agent)
    with pytest.raises(UsageError, match="exists already"):
        checkpoint.export(saved, tmp_path / "agent")


def test_a_full_disk_ends_the_run_and_damages_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    original = files.write_synced

    def full(path: Path, content: bytes) -> None:
        if (run / "checkpoints" / "00000002").exists() and path.name == "optimizer.safetensors":
            path.write_bytes(content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, content)

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(RunError, match="No space left"):
        train(tiny(), run, checkpoint_every=2)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000002"]
    monkeypatch.undo()
    assert resume(run).agent_steps == 384


def test_free_space_is_checked_before_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UsageError, match="no space left"):
        train(tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_in_use_is_not_changed(run: Path) -> None:
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    with directory.lock(run, pytest.fail), pytest.raises(UsageError, match="in use"):
        resume(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before


def test_an_incomplete_last_line_of_the_log_is_cut_off(run: Path) -> None:
    log = run / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"update": 7, "agent')
    assert len(read_metrics(run)) == 6
    resume(run)
    assert log.read_text() == whole


def test_a_run_of_version_0_1_is_resumed_and_played(tmp_path: Path) -> None:
    """`data/format_2` was written by ppo37 0.1.0: Breakout from RAM, with a masked joystick."""
    run = Path(shutil.copytree(TESTS / "data" / "format_2", tmp_path / "run"))
    saved = checkpoint.load(run / "checkpoints" / "00000003")
    agent = load_agent(run).agent
    assert agent.state_dict().keys() == saved.model.keys()
    assert agent.policy.action_mask.tolist() == [True] * 3 + [False, True, False] + [True] * 2
    assert float(agent.obs_statistics.values.number) == pytest.approx(2 * (3 * 16 + 1), rel=1e-5)
    summary = resume(run)
    assert summary.finished
    assert summary.agent_steps == 192
    assert read_metrics(run)[-1]["cpu_s"] is None, "not known for its first updates"
    newest = checkpoint.load_newest(run / "checkpoints")[0]
    assert newest.state["config"]["zero_mean_init"] is False
    assert json.loads((newest.path / "manifest.json").read_text())["format"] == FORMAT
    assert len(evaluate(run, episodes=1).scores) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seen_obs.mean", "obs_statistics.mean"),
        ("seen_returns.number", "return_statistics.number"),
        ("policy.possible", "policy.action_mask"),
        ("memory", "lstm_state"),
        ("core.recurrent.weight", "core.recurrent.weight"),
    ],
)
def test_names_of_version_0_1(old: str, new: str, tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "00000007", {old: torch.ones(1)}, None, SMALL_STATE)
    _sign(folder, 2)
    assert list(checkpoint.load(folder).model) == [new]
