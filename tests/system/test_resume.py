"""Resume: a run that was stopped and resumed equals one that was not, to the last bit."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LIMIT_S, catch_command, log_without_times, read_files, tiny, tiny_options

from ppo37 import Config, resume, train
from ppo37.envs.atari import Atari
from ppo37.envs.games import atari_games
from ppo37.errors import UsageError
from ppo37.session import checkpoint
from ppo37.session.view import NoView

ATARI = tiny(
    game="breakout",
    threads=2,
    num_envs=3,
    num_steps=64,
    num_minibatches=3,
    total_timesteps=4 * 192,
    reseed_interval=60,
    bootstrap_truncated=True,
)
"""Games of Breakout end after 100 to 200 steps: only some environments are reseeded."""


def _newest(run: Path) -> checkpoint.Checkpoint:
    return checkpoint.load_newest(run / "checkpoints")[0]


def _fingerprint(run: Path) -> str:
    return checkpoint.fingerprint(_newest(run))


def _oldest(run: Path) -> Path:
    return checkpoint.numbered(run / "checkpoints")[-1]


@pytest.mark.parametrize(
    "config",
    [
        tiny(),
        ATARI,
        pytest.param(
            dataclasses.replace(ATARI, game="space_invaders", protocol="machado"),
            marks=pytest.mark.slow,
        ),
        pytest.param(dataclasses.replace(ATARI, precision="bf16"), marks=pytest.mark.slow),
        pytest.param(dataclasses.replace(ATARI, network="lstm"), marks=pytest.mark.slow),
    ],
    ids=lambda config: f"{config.game}-{config.protocol}-{config.network}-{config.precision}",
)
def test_a_resumed_run_equals_an_uninterrupted_one(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", checkpoint_every=2)
    middle = checkpoint.load(_oldest(tmp_path / "parts"))
    assert middle.state["update"] < config.num_updates
    resume(middle.path, checkpoint_every=1)
    assert _fingerprint(tmp_path / "parts") == _fingerprint(tmp_path / "whole")
    assert log_without_times(tmp_path / "parts") == log_without_times(tmp_path / "whole")
    if config.game == "breakout":
        seedings = [env["seedings"] for env in middle.state["environments"]]
        assert max(seedings) > 0  # the harder case


@pytest.mark.slow
def test_a_run_killed_twice_can_be_resumed(tmp_path: Path) -> None:
    """With SIGKILL at any moment of an update.

    Quick tests of the same: test_crashes.py (in a real game) and test_verify.py.
    """
    # Long enough that the run is still active when this process notices the update.
    steps = 100 * 64
    config = tiny(preset="classic", num_minibatches=4, update_epochs=4, total_timesteps=steps)
    train(config, tmp_path / "whole")
    run = tmp_path / "killed"
    log = run / "metrics.jsonl"
    options = tiny_options("seed", "num_envs", "num_steps", "network", "precision", "kernels")
    command = catch_command(run, steps, "--checkpoint-every", "1", *options)
    for lines in (7, 16):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + LIMIT_S
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        command = [sys.executable, "-m", "ppo37", "resume", str(run), "--checkpoint-every", "3"]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=LIMIT_S).returncode == 0
    assert _fingerprint(run) == _fingerprint(tmp_path / "whole")
    assert log_without_times(run) == log_without_times(tmp_path / "whole")


def test_the_number_of_checkpoints_does_not_change_a_run(
    finished_run: Path, tmp_path: Path
) -> None:
    train(tiny(), tmp_path / "again", checkpoint_every=5)
    train(tiny(seed=4), tmp_path / "other")
    assert _fingerprint(tmp_path / "again") == _fingerprint(finished_run)
    assert _fingerprint(tmp_path / "other") != _fingerprint(finished_run)


def test_a_fingerprint_covers_weights_optimizer_counters_and_games(finished_run: Path) -> None:
    saved = _newest(finished_run)
    assert saved.optimizer is not None
    assert saved.actions is not None
    known = {checkpoint.fingerprint(saved)}

    def changed(**parts: Any) -> str:
        return checkpoint.fingerprint(saved._replace(**parts))

    name = next(iter(saved.model))
    known.add(changed(model=saved.model | {name: saved.model[name] + 1}))
    name = next(iter(saved.optimizer))
    known.add(changed(optimizer=saved.optimizer | {name: saved.optimizer[name] + 1}))
    known.add(changed(actions=saved.actions | {"0": saved.actions["0"].new_zeros(1)}))
    known.add(changed(state=saved.state | {"update": 1}))
    environments = json.loads(json.dumps(saved.state["environments"]))
    environments[0]["paddle"] += 1
    known.add(changed(state=saved.state | {"environments": environments}))
    assert len(known) == 6
    assert changed(state=saved.state | {"wall_s": 1.0}) in known


def test_games_that_cannot_be_restored_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(ATARI, run, checkpoint_every=2)
    saved = checkpoint.load(_oldest(run))
    assert saved.actions is not None
    wrong = {env: 1 - actions.clip(max=1) for env, actions in saved.actions.items()}
    checkpoint.save(saved.path, saved.model, saved.optimizer, saved.state, wrong)

    notes: list[str] = []

    class RecordedNotes(NoView):
        def note(self, text: str) -> None:
            notes.append(text)

    before = read_files(run)
    with pytest.raises(UsageError, match="is not as it was saved"):
        resume(saved.path)
    assert read_files(run) == before
    summary = resume(saved.path, view=RecordedNotes(), new_games=True)
    assert summary.agent_steps == ATARI.total_timesteps
    assert any("starting new games" in note for note in notes)


def _replayed_exactly(game: str, protocol: str, steps: int, interval: int) -> None:
    """Save games in the middle, restore them in a new engine, and compare the rest."""
    envs = [Atari(game, 2, 7, protocol, num_threads=2, reseed_interval=interval) for _ in range(2)]
    first, second = envs
    first.reset()
    draws = np.random.default_rng(0).integers(len(first.action_names), size=(steps + 300, 2))
    for actions in draws[:steps]:
        last = first.step(actions)
    assert np.array_equal(second.restore(first.save()), last.obs)
    for actions in draws[steps:]:
        a, b = first.step(actions), second.step(actions)
        for name in ("obs", "rewards", "dones", "truncated"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert a.episodes == b.episodes
    assert all(
        x.state == y.state and np.array_equal(x.actions, y.actions)
        for x, y in zip(first.save(), second.save(), strict=True)
    )
    for each in envs:
        each.close()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("game", "protocol"),
    [
        ("breakout", "classic"),
        pytest.param("tetris", "machado", marks=SLOW),
        *(
            pytest.param(*pair, marks=SLOW)
            for pair in (
                ("breakout", "machado"),
                ("tetris", "classic"),
                ("qbert", "classic"),
                ("qbert", "machado"),
            )
        ),
    ],
)
def test_a_restored_game_continues_identically(game: str, protocol: str) -> None:
    _replayed_exactly(game, protocol, 300, 75)


@pytest.mark.slow
def test_a_seeded_reset_does_not_change_other_environments() -> None:
    """Compare each environment, until it is reseeded, with an engine that is never reseeded."""
    seeded = Atari("breakout", 3, 7, num_threads=1, reseed_interval=300)
    never = Atari("breakout", 3, 7, num_threads=1)
    assert np.array_equal(seeded.reset(), never.reset())
    same = np.ones(3, np.bool_)
    compared_after_a_reset = 0
    for actions in np.random.default_rng(0).integers(4, size=(500, 3)):
        a, b = seeded.step(actions), never.step(actions)
        reseeded = np.array([env.state["seedings"] > 0 for env in seeded.save()])
        compared_after_a_reset += int(reseeded.any() and not reseeded.all())
        same &= ~reseeded
        assert np.array_equal(a.obs[same], b.obs[same])
        assert np.array_equal(a.rewards[same], b.rewards[same])
    assert compared_after_a_reset > 20
    assert not same[2]
    seeded.close()
    never.close()


@pytest.mark.slow
@pytest.mark.parametrize("game", atari_games())
def test_every_restored_game_continues_identically(game: str) -> None:
    """All of the 5,000 steps are replayed, because there was no seeded reset."""
    _replayed_exactly(game, "machado", 5_000, 1_000_000)


def test_an_exported_agent_contains_no_games(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    agent = checkpoint.load(checkpoint.export(_newest(tmp_path / "run"), tmp_path / "agent"))
    assert agent.actions is None
    assert agent.state["environments"] == []
