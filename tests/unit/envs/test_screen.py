"""`screen.c` against the engine's own shrinking and stacking, and against a formula."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ppo37.envs.atari import Atari
from ppo37.envs.atari.screen import ScreenEngine, _pointer, screen_library
from ppo37.errors import UsageError

SCREEN, SIDE = (210, 160), 84


def _missing() -> str:
    """Return why `screen.c` cannot be used here; empty if it can."""
    try:
        screen_library(SCREEN, SIDE)
    except UsageError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())


def refuse(*_: Any) -> None:
    raise UsageError("not here")


@pytest.fixture
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Atari]]:
    """The same games, shrunk by `screen.c` and by the engine."""
    game, protocol, frames, max_frames = request.param
    ours = Atari(game, 3, 7, protocol, num_frames=frames, reseed_interval=40, max_frames=max_frames)
    monkeypatch.setattr("ppo37.envs.atari.screen.screen_library", refuse)
    theirs = Atari(
        game, 3, 7, protocol, num_frames=frames, reseed_interval=40, max_frames=max_frames
    )
    assert isinstance(ours._engine, ScreenEngine)
    assert not isinstance(theirs._engine, ScreenEngine)
    with closing(ours), closing(theirs):
        yield [ours, theirs]


@pytest.mark.parametrize(
    "both",
    [
        ("breakout", "classic", 4, 800),
        ("space_invaders", "machado", 4, 800),
        ("klax", "classic", 1, 300),  # 250 rows
        pytest.param(("carnival", "classic", 2, 800), marks=pytest.mark.slow),  # 214 rows
        pytest.param(("seaquest", "classic", 4, 800), marks=pytest.mark.slow),
    ],
    indirect=True,
    ids=lambda param: "-".join(map(str, param)),
)
def test_observations_are_those_of_the_engine(both: list[Atari]) -> None:
    """Over lives, ends of games, time limits and seeded resets, and after a restore."""
    np.testing.assert_array_equal(*(envs.reset() for envs in both))
    rng = np.random.default_rng(0)
    over = cut = 0
    for _ in range(300):
        actions = rng.integers(0, len(both[0].action_names), 3)
        ours, theirs = (envs.step(actions) for envs in both)
        np.testing.assert_array_equal(ours.obs, theirs.obs)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)
        ended = ours.truncated
        np.testing.assert_array_equal(ours.final_obs[ended], theirs.final_obs[ended])
        over += len(ours.episodes)
        cut += int(ours.truncated.sum())
    assert 0 < cut <= over
    env_states = both[0].save()
    np.testing.assert_array_equal(both[0].restore(env_states), both[1].restore(env_states))


def test_a_pixel_is_the_mean_of_its_area() -> None:
    """On noise, against a product of matrices, within the rounding to integers."""
    compiled = screen_library(SCREEN, SIDE)
    screens = np.random.default_rng(1).integers(0, 256, (2, 1, *SCREEN)).astype(np.uint8)
    rows, columns = (weights(size) for size in SCREEN)
    expected = rows @ screens[:, 0].astype(float) @ columns.T
    found = pushed(compiled, screens)[:, -1]
    assert np.abs(found - expected).max() <= 0.5 + 1e-4


def test_a_stack_moves_up_and_a_new_game_clears_it() -> None:
    compiled = screen_library(SCREEN, SIDE)
    before = np.random.default_rng(2).integers(0, 256, (2, 3, SIDE, SIDE)).astype(np.uint8)
    screens = np.full((2, 1, *SCREEN), 77, np.uint8)
    after = pushed(compiled, screens, before, np.array([False, True]))
    assert (after[:, -1] == 77).all()
    np.testing.assert_array_equal(after[0, :-1], before[0, 1:])
    assert not after[1, :-1].any()


def pushed(
    compiled: Any,
    screens: NDArray[np.uint8],
    before: NDArray[np.uint8] | None = None,
    is_new: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    plan = np.empty(compiled.plan_bytes(), np.uint8)
    compiled.make_plan(_pointer(plan))
    count = len(screens)
    before = np.zeros((count, 1, SIDE, SIDE), np.uint8) if before is None else before
    is_new = np.zeros(count, np.bool_) if is_new is None else is_new
    after = np.empty_like(before)
    compiled.push(
        _pointer(plan), count, before.shape[1], *map(_pointer, (screens, is_new, before, after))
    )
    return after


def weights(size: int) -> NDArray[np.float64]:
    """Return the weights [SIDE, size] of the old pixels in each new one."""
    edges = np.arange(SIDE + 1) * size / SIDE
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(covered, 0.0) * SIDE / size
