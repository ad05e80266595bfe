"""Modes and difficulties of Atari games: the engine in Python, and what plays them."""

import json
import platform
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import fingerprint_and_log, tiny

from ppo37 import evaluate, resume, train
from ppo37.config import Config
from ppo37.envs.atari import Atari
from ppo37.envs.games import game_info
from ppo37.errors import UsageError

same_arithmetic = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="the engine's no-ops and its rounding are known for Linux on x86-64 only",
)
STEPS = 130


def play(envs: Any) -> list[Any]:
    """Play random actions. Returns everything that comes from the environments."""
    rng = np.random.default_rng(0)
    with closing(envs):
        found = [envs.reset().copy()]
        for _ in range(STEPS):
            step = envs.step(rng.integers(len(envs.action_names), size=envs.num_envs))
            found += [np.array(part) for part in step[:4]] + [step.episodes]
    return found


def same(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@same_arithmetic
@pytest.mark.parametrize(
    ("game", "protocol"),
    [
        ("breakout", "classic"),
        pytest.param("space_invaders", "machado", marks=pytest.mark.slow),
        pytest.param("tennis", "classic", marks=pytest.mark.slow),
    ],
)
def test_the_own_mode_plays_the_games_of_the_other_engine(game: str, protocol: str) -> None:
    """Bit for bit, for games whose own mode is 0, over the ends of lives and games."""
    settings = {"seed": 5, "protocol": protocol, "max_frames": 200, "reseed_interval": 60}
    played = play(Atari(game, 2, **settings, modes=(0,), difficulty=0))
    assert same(played, play(Atari(game, 2, num_threads=1, **settings)))


@pytest.mark.slow
def test_environments_play_the_modes_in_turn() -> None:
    """Environment i of all plays modes[i % n], also if a part of them is made alone."""
    modes = game_info("breakout").modes[:2]
    with closing(Atari("breakout", 2, 5, modes=modes)) as envs:
        both = envs.reset().copy()
    parts = [
        play(Atari("breakout", 1, 5, modes=(mode,), first_env=i)) for i, mode in enumerate(modes)
    ]
    assert np.array_equal(both, np.concatenate([part[0] for part in parts]))
    assert same(play(Atari("breakout", 1, 5, modes=modes, first_env=1)), parts[1])
    assert not same(play(Atari("breakout", 1, 5, modes=(modes[0],), first_env=1)), parts[1])


def test_a_difficulty_changes_the_game() -> None:
    easy, hard = (play(Atari("pong", 1, 5, difficulty=difficulty)) for difficulty in (0, 1))
    assert not same(easy, hard)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"modes": (0, 3)}, "Breakout has no mode 3; it has 0, 4, 8"),
        ({"difficulty": 2}, "Breakout has no difficulty 2; it has 0, 1"),
    ],
    ids=str,
)
def test_unknown_modes_are_refused(settings: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=expected):
        train(tiny(game="breakout", **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_environments_have_no_modes() -> None:
    with pytest.raises(UsageError, match="modes and difficulty are for Atari, not for catch"):
        Config(game="catch", modes=(1,))
    with pytest.raises(UsageError, match="at least one mode"):
        Config(modes=())


@pytest.mark.slow
def test_a_run_with_modes_is_resumed_and_evaluated(tmp_path: Path) -> None:
    config = tiny(game="breakout", modes=(0, 4), difficulty=1, num_envs=2, total_timesteps=128)
    run = tmp_path / "run"
    train(config, run, checkpoint_every=2)
    before = fingerprint_and_log(run)
    resume(run / "checkpoints" / "00000002")
    assert fingerprint_and_log(run) == before
    assert json.loads((run / "config.json").read_text())["config"]["modes"] == [0, 4]
    assert len(evaluate(run, 1).scores) == 1
