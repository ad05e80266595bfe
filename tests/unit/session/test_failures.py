"""Failures of environments: what a run leaves, and how it continues."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import FaultyCatch, log_without_times, replace_parts, same_tensors, tiny

from ppo37 import Observer, resume, train
from ppo37.envs import EnvState
from ppo37.envs.catch import Catch
from ppo37.errors import RunError
from ppo37.session import checkpoint
from ppo37.session.checkpoint import Checkpoint
from ppo37.session.observer import Progress
from ppo37.session.view import NoView

nan_rewards = replace_parts(rewards=lambda step: step.rewards * float("nan"))
SCALED: dict[str, Any] = {"norm_reward": True, "clip_rewards": False}


class Stops(Observer):
    """A callback that stops after update 3."""

    def update(self, progress: Progress) -> str | None:
        return "enough" if progress.record["update"] == 3 else None


class Notes(NoView):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def newest(run: Path) -> Checkpoint:
    return checkpoint.load_newest(run / "checkpoints")[0]


def test_a_failure_between_checkpoints_leaves_the_state_after_the_last_update(
    tmp_path: Path,
) -> None:
    """With the running statistics of then, though a part of a rollout has been seen since."""
    run, stopped = tmp_path / "run", tmp_path / "stopped"
    config = tiny(**SCALED)
    with pytest.raises(RunError, match=r"rewards that are not finite.*; checkpoint 3 is in .*run"):
        train(config, run, make_envs=partial(FaultyCatch, nan_rewards, 55))
    train(config, stopped, make_envs=Catch, callbacks=[Stops()])
    found, expected = newest(run), newest(stopped)
    assert found.optimizer is not None
    assert expected.optimizer is not None
    assert same_tensors(found.model, expected.model)
    assert same_tensors(found.optimizer, expected.optimizer)
    assert (found.state["update"], found.state["agent_steps"]) == (3, 192)
    assert log_without_times(run) == log_without_times(stopped)
    view = Notes()
    assert resume(run, view=view, make_envs=partial(FaultyCatch, nan_rewards, 999)).finished
    assert [note for note in view.notes if "starting new games" in note]
    assert newest(run).state["exact"] is False


def test_a_failure_before_the_first_update_claims_no_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="not finite") as caught:
        train(tiny(), run, make_envs=partial(FaultyCatch, nan_rewards, 15))
    assert "checkpoint" not in str(caught.value)
    assert not list((run / "checkpoints").iterdir())


def test_the_checkpoint_with_games_before_the_failure_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make = partial(FaultyCatch, nan_rewards, 55)
    with pytest.raises(RunError, match="checkpoint 3 is in"):
        train(tiny(), run, 2, make_envs=make, keep=1)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["00000002", "00000003"]
    assert checkpoint.load(run / "checkpoints" / names[0]).actions is not None
    with pytest.raises(RunError, match="checkpoint 2 is in"):  # saved exactly, and not replaced
        train(tiny(), tmp_path / "other", 2, make_envs=partial(FaultyCatch, nan_rewards, 40))
    assert newest(tmp_path / "other").actions is not None


class Unsaved(Catch):
    """Catch that cannot be saved after a while."""

    def save(self) -> list[EnvState]:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 1:
            raise OSError("no memory")
        return super().save()


def test_games_that_cannot_be_saved_leave_a_checkpoint_without_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(
        RunError, match=r"save of Unsaved failed: OSError: no memory; checkpoint \d is in"
    ):
        train(tiny(), run, 1, make_envs=Unsaved)
    assert newest(run).actions is None
