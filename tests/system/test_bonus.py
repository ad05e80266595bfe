"""A loop of one's own with an object beside the agent: saved, resumed, and refused elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fingerprint_and_log, run_command, same_tensors, tiny
from torch import Tensor, nn

from ppo37 import evaluate, resume
from ppo37.algorithm.update import update
from ppo37.backends.ranks import Ranks
from ppo37.build import Brought
from ppo37.errors import RunError, UsageError
from ppo37.session import checkpoint
from ppo37.session.checkpoint_format import EXTRAS, Damaged
from ppo37.session.observer import SessionOptions
from ppo37.session.session import Session
from ppo37.session.start import new_session, resumed_session

OPTIONS = SessionOptions(checkpoint_every=2, view=None)


class Rarity(nn.Module):
    """The exploration bonus 1 / sqrt(n) of an observation that was seen n times, by its hash."""

    def __init__(self, cells: int = 997) -> None:
        super().__init__()
        self.register_buffer("visits", torch.zeros(cells, dtype=torch.int64))

    def forward(self, obs: Tensor) -> Tensor:
        pixels = obs.flatten(2).long()
        cells = (pixels * torch.arange(pixels.shape[2])).sum(2) % len(self.visits)
        self.visits += torch.bincount(cells.flatten(), minlength=len(self.visits))
        return self.visits[cells].rsqrt()


def _learn(session: Session, bonus: Rarity, updates: int) -> None:
    """Run the loop with a bonus; fail after so many updates, as a crash would."""
    for k in session.updates():
        if k == updates:
            raise RunError("crash")
        session.anneal()
        rollout, episodes = session.collect(k)
        rollout.rewards.add_(bonus(rollout.obs))
        batch, config = session.advantages(rollout), session.config
        shuffled = session.permutations(k)
        losses = update(session.train_step, batch, shuffled, config.num_minibatches, None)
        session.end_update(k, batch, losses, episodes)


def _train(run: Path, bonus: Rarity, updates: int = 99, **changes: Any) -> None:
    brought = Brought(extras={"bonus": bonus})
    with new_session(tiny(**changes), run, OPTIONS, brought) as session:
        _learn(session, bonus, updates)


def _resume(run: Path, **extras: Any) -> None:
    with resumed_session(run, OPTIONS, Brought(extras=extras), False, {}) as session:
        _learn(session, extras["bonus"], 99)


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A run that has crashed in its fifth update and lost one since its checkpoint."""
    with pytest.raises(RunError, match="crash"):
        _train(tmp_path / "run", Rarity(), updates=5)
    return tmp_path / "run"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bonus_resumes_exactly(threads: int, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    bonus, again = Rarity(), Rarity()
    _train(whole, bonus, threads=threads)
    with pytest.raises(RunError, match="crash"):
        _train(run, Rarity(), updates=5, threads=threads)
    _resume(run, bonus=again)
    assert fingerprint_and_log(run) == fingerprint_and_log(whole)
    assert int(bonus.visits.sum()) == 6 * 64
    assert torch.equal(bonus.visits, again.visits)
    # The bonus changes what is learned from, not the scores.
    without = tmp_path / "without"
    _train(without, Rarity(1), threads=threads)
    saved = [checkpoint.load_newest(path / "checkpoints")[0] for path in (whole, without)]
    assert not same_tensors(saved[0].model, saved[1].model)
    assert evaluate(run, episodes=2).scores == evaluate(whole, episodes=2).scores


def test_the_state_of_a_bonus_is_part_of_the_fingerprint(crashed: Path) -> None:
    saved = checkpoint.load_newest(crashed / "checkpoints")[0]
    assert saved.extras is not None
    changed = {name: tensor + 1 for name, tensor in saved.extras.items()}
    assert checkpoint.fingerprint(saved._replace(extras=changed)) != checkpoint.fingerprint(saved)


def test_a_run_with_a_bonus_is_not_resumed_without_it(
    crashed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="was saved with bonus beside the agent, and this program"):
        resume(crashed)
    code, _, err = run_command(capsys, "resume", str(crashed))
    assert code == 2
    assert "resume the run by the program that trained it" in err.splitlines()[-1]
    with pytest.raises(UsageError, match="brings bonus, other"):
        _resume(crashed, bonus=Rarity(), other=Rarity())
    with pytest.raises(Damaged, match=r"extras\.safetensors does not fit bonus: bonus/visits"):
        _resume(crashed, bonus=Rarity(5))
    assert {path: path.read_bytes() for path in before} == before


def test_several_ranks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "size", 2)
    with pytest.raises(UsageError, match="several ranks cannot have bonus in common yet"):
        _train(tmp_path / "run", Rarity())
    assert not (tmp_path / "run").exists()


def test_damage_to_a_bonus_is_noticed(crashed: Path) -> None:
    """The checkpoint before is used, as for the other files."""
    newest = checkpoint.numbered(crashed / "checkpoints")[0]
    content = bytearray((newest / EXTRAS).read_bytes())
    content[-1] ^= 1
    (newest / EXTRAS).write_bytes(content)
    with pytest.raises(Damaged, match=EXTRAS):
        checkpoint.load(newest)
    _resume(crashed, bonus=Rarity())


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    with (
        pytest.raises(UsageError, match="tensors only, but adam/state is a dict"),
        new_session(tiny(), tmp_path / "run", OPTIONS, Brought(extras={"adam": optimizer})),
    ):
        pass
    assert not (tmp_path / "run").exists()
