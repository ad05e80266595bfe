"""The C++ environment against the one in Python, and facts about the engine that `Atari` needs.

Both play the same seeds and actions and must agree bit for bit in every game. That is possible only
if the engine draws its no-ops with GNU's library and sums pixels without fused operations.
"""

import platform
import sys

import numpy as np
import pytest

from ppo37.envs.atari import Atari
from ppo37.envs.atari.protocols import FRAME_SKIP, PROTOCOLS, SIDE, STACK
from ppo37.envs.atari.reference import (
    GAME_VARIANTS,
    ReferenceAtari,
    draw,
    grayscale,
    overlaps,
    shrink,
)
from ppo37.envs.contract import Step
from ppo37.envs.games import atari_games
from ppo37.errors import UsageError

same_arithmetic = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="the engine's no-ops and its rounding are known for Linux on x86-64 only",
)


class Watched:
    """An `Atari` that records the actions sent to the engine, and its results."""

    def __init__(self, envs: Atari) -> None:
        self.envs = envs
        self.sent, self.infos, self.raw_rewards = [], [], []
        self._step = envs._engine.step
        envs._engine.step = self.step

    def step(self, actions):
        self.sent.append(actions.copy())
        result = self._step(actions)
        self.raw_rewards.append(result[1])
        self.infos.append(result[4])
        return result


@pytest.fixture
def make():
    """Return a function that makes `Atari` environments; they are closed after the test."""
    made = []

    def make(*args, **kwargs) -> Atari:
        made.append(Atari(*args, num_threads=1, **kwargs))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


def random_actions(envs, steps: int, action_space: str = "discrete") -> np.ndarray:
    rng = np.random.default_rng(0)
    size = (steps, envs.num_envs)
    if action_space == "continuous":
        return rng.normal(size=(*size, 3)).astype(np.float32)
    if action_space == "joystick":
        return np.stack([rng.integers(choices, size=size) for choices in (3, 3, 2)], axis=-1)
    return rng.integers(len(envs.action_names), size=size)


def assert_same_step(ours: Step, theirs: Step) -> None:
    for field in ("obs", "rewards", "dones", "truncated"):
        a, b = getattr(ours, field), getattr(theirs, field)
        assert a.dtype == b.dtype, field
        np.testing.assert_array_equal(a, b, err_msg=field)
    cut = ours.truncated
    np.testing.assert_array_equal(ours.final_obs[cut], theirs.final_obs[cut])
    assert ours.episodes == theirs.episodes


def assert_parity(make, game: str, steps: int, num_envs: int = 1, **settings) -> list[Step]:
    """Play the same in both. Returns the steps of the C++ environment."""
    envs = make(game, num_envs, 3, **settings)
    watched = Watched(envs)
    reference = ReferenceAtari(game, num_envs, 3, variant="engine", **settings)
    assert envs.action_names == reference.action_names
    assert envs.obs_shape == reference.obs_shape
    np.testing.assert_array_equal(envs.reset(), reference.reset())
    results = []
    for actions in random_actions(envs, steps, settings.get("action_space", "discrete")):
        results.append(envs.step(actions))
        assert_same_step(results[-1], reference.step(actions))
        np.testing.assert_array_equal(envs._scores, reference.scores)
        lives = [game._lives for game in reference._games]
        np.testing.assert_array_equal(watched.infos[-1]["lives"], lives)
    return results


# Games of each screen height, with and without FIRE and lives; together the others are slow.
SOME_GAMES = {
    "adventure",
    "breakout",
    "carnival",
    "freeway",
    "journey_escape",
    "laser_gates",
    "ms_pacman",
    "pacman",
    "pong",
    "pooyan",
}


@same_arithmetic
@pytest.mark.parametrize(
    "game",
    [
        game if game in SOME_GAMES else pytest.param(game, marks=pytest.mark.slow)
        for game in atari_games()
    ],
)
def test_every_game_is_the_same_in_both(make, game) -> None:
    assert_parity(make, game, steps=20)


@same_arithmetic
@pytest.mark.parametrize(
    ("game", "losses"),
    [
        ("breakout", 20),
        pytest.param("frogger", 8, marks=pytest.mark.slow),
        pytest.param("klax", 2, marks=pytest.mark.slow),
    ],
)
def test_lost_lives_and_ended_games_are_the_same_in_both(make, game, losses) -> None:
    results = assert_parity(make, game, steps=400, num_envs=2, first_env=5)
    assert sum(int(step.dones.sum()) for step in results) >= losses
    assert sum(len(step.episodes) for step in results) >= 2


@same_arithmetic
@pytest.mark.parametrize("game", ["breakout", "ms_pacman"])
def test_sticky_actions_are_the_same_in_both(make, game) -> None:
    assert_parity(make, game, steps=150, protocol="machado")


@same_arithmetic
@pytest.mark.parametrize("action_space", ["joystick", "continuous"])
@pytest.mark.parametrize(
    ("game", "protocol"),
    [
        ("breakout", "classic"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("ms_pacman", "machado"),
                ("breakout", "machado"),
                ("ms_pacman", "classic"),
                ("kaboom", "classic"),
                ("kaboom", "machado"),
                ("space_invaders", "classic"),
                ("space_invaders", "machado"),
            )
        ),
    ],
)
def test_other_action_spaces_are_the_same_in_both(make, game, protocol, action_space) -> None:
    assert_parity(make, game, 120, num_envs=2, protocol=protocol, action_space=action_space)


@same_arithmetic
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("max_frames", [40, 41, 43])
def test_truncated_games_are_the_same_in_both(make, protocol, max_frames) -> None:
    results = assert_parity(make, "pong", steps=30, protocol=protocol, max_frames=max_frames)
    assert sum(int(step.truncated.sum()) for step in results) == 30 // -(-max_frames // FRAME_SKIP)


@same_arithmetic
@pytest.mark.slow
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("game", atari_games())
def test_long_games_are_the_same_in_both(make, game, protocol) -> None:
    assert_parity(make, game, steps=3000, protocol=protocol)


def play_breakout(make, steps: int = 400, **settings) -> tuple[Watched, list[Step], np.ndarray]:
    envs = make("breakout", 2, 1, **settings)
    watched = Watched(envs)
    envs.reset()
    # Without FIRE a ball is in play only if the environment pressed FIRE itself.
    fire = envs.action_names.index("FIRE")
    others = [action for action in range(len(envs.action_names)) if action != fire]
    choices = np.random.default_rng(0).choice(others, size=(steps, 2))
    return watched, [envs.step(actions) for actions in choices], choices


def test_frame_numbers_continue_after_a_lost_life_and_restart_in_a_new_game(make) -> None:
    watched, steps, _ = play_breakout(make)
    numbers = np.array([info["episode_frame_number"] for info in watched.infos])
    losses = games = 0
    for t in range(1, len(steps)):
        over = np.isin(np.arange(2), [episode.env for episode in steps[t].episodes])
        lost = steps[t].dones & ~over
        np.testing.assert_array_equal(numbers[t][~over], numbers[t - 1][~over] + FRAME_SKIP)
        assert (numbers[t][over] <= 30).all()
        losses, games = losses + lost.sum(), games + over.sum()
    assert losses >= 4 * games > 0


def test_fire_replaces_the_first_action_of_a_new_life_and_no_other(make) -> None:
    watched, steps, choices = play_breakout(make)
    fire = watched.envs.action_names.index("FIRE")
    expected = choices.copy()
    for t, step in enumerate(steps[:-1]):
        over = np.isin(np.arange(2), [episode.env for episode in step.episodes])
        expected[t + 1][step.dones & ~over] = fire
    np.testing.assert_array_equal(watched.sent, expected)
    assert (expected == fire).sum() >= 8


def test_no_action_is_replaced_without_automatic_fire(make) -> None:
    watched, _, choices = play_breakout(make, 200, protocol="machado")
    np.testing.assert_array_equal(watched.sent, choices)


def test_all_lives_are_played(make) -> None:
    watched, _, _ = play_breakout(make)
    assert set(np.unique([info["lives"] for info in watched.infos])) == {1, 2, 3, 4, 5}


def test_a_score_is_the_sum_of_the_raw_rewards_of_all_lives(make) -> None:
    envs = make("ms_pacman", 2, 1)
    watched = Watched(envs)
    envs.reset()
    started, checked = np.zeros(2, int), 0
    for t, actions in enumerate(random_actions(envs, 900)):
        step = envs.step(actions)
        np.testing.assert_array_equal(step.rewards, np.sign(watched.raw_rewards[-1]))
        for env, score, length in step.episodes:
            rewards = np.array(watched.raw_rewards)[started[env] : t + 1, env]
            assert (score, length) == (rewards.sum(), len(rewards))
            assert rewards.max() > 1
            started[env], checked = t + 1, checked + 1
    assert checked >= 2


def test_an_action_out_of_range_is_refused_with_its_environment(make) -> None:
    envs = make("pong", 3, 1)
    envs.reset()
    with pytest.raises(ValueError, match=r"action 6 of environment 2 is not in 0\.\.5"):
        envs.step(np.array([0, 5, 6]))
    with pytest.raises(ValueError, match="action -1 of environment 0"):
        envs.step(np.array([-1, 0, 0]))
    with pytest.raises(ValueError, match="expected 3 actions"):
        envs.step(np.zeros(2, np.int64))
    # The engine got no action: otherwise this step would fail.
    assert envs.step(np.zeros(3, np.int64)).obs.shape == (3, STACK, SIDE, SIDE)


def trajectory(envs, steps: int = 40) -> np.ndarray:
    """Play the same actions in all environments: observations [steps + 1, N, 4, 84, 84]."""
    choices = np.random.default_rng(0).integers(len(envs.action_names), size=steps)
    return np.array(
        [envs.reset(), *(envs.step(np.full(envs.num_envs, action)).obs for action in choices)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["machado", "classic"])
def test_the_seed_determines_the_games(make, protocol) -> None:
    base = trajectory(make("space_invaders", 3, 5, protocol))
    assert all(not np.array_equal(base[:, i], base[:, j]) for i, j in [(0, 1), (0, 2), (1, 2)])
    np.testing.assert_array_equal(base, trajectory(make("space_invaders", 3, 5, protocol)))
    # The division among processes does not matter.
    shifted = trajectory(make("space_invaders", 2, 5, protocol, first_env=1))
    np.testing.assert_array_equal(base[:, 1:], shifted)
    for settings in ({"seed": 6}, {"seed": 5, "index": 1}):
        other = trajectory(make("space_invaders", num_envs=3, protocol=protocol, **settings))
        assert not np.array_equal(base, other)


@pytest.mark.parametrize("kind", [Atari, ReferenceAtari])
def test_a_reset_starts_again_from_the_seed(kind) -> None:
    envs = kind("breakout", 1, 2, "machado")
    np.testing.assert_array_equal(trajectory(envs, 30), trajectory(envs, 30))
    envs.close()


def test_machado_has_all_actions_and_is_done_only_at_the_end_of_a_game(make) -> None:
    watched, steps, _ = play_breakout(make, protocol="machado")
    assert len(watched.envs.action_names) == 18
    lives = np.array([info["lives"] for info in watched.infos])
    assert (np.diff(lives, axis=0) == -1).sum() >= 4
    for step in steps:
        assert np.flatnonzero(step.dones).tolist() == [episode.env for episode in step.episodes]
    assert any(step.episodes for step in steps)


@pytest.mark.slow
def test_seeds_make_the_repeated_actions_independent(make) -> None:
    """Games with as many no-ops and the same actions differ only by their repeated actions."""
    alike = {}
    for protocol in PROTOCOLS:
        envs = make("breakout", 5, 2, protocol)
        seen = trajectory(envs)
        everything = {"reset_mask": np.ones(envs.num_envs, np.bool_)}
        _, info = envs._engine.reset(seed=envs._seeds(slice(None)), options=everything)
        frames = info["episode_frame_number"]
        pairs = [(i, j) for i in range(5) for j in range(i) if frames[i] == frames[j]]
        assert pairs
        alike[protocol] = {np.array_equal(seen[:, i], seen[:, j]) for i, j in pairs}
    assert alike == {"classic": {True}, "machado": {False}}


def test_a_time_limit_truncates_and_gives_the_last_observation(make) -> None:
    envs = make("pong", 2, 1, max_frames=40)
    envs.reset()
    noops = np.zeros(2, np.int64)
    steps = [envs.step(noops) for _ in range(20)]
    ends = [t for t, step in enumerate(steps) if step.truncated.any()]
    assert ends == [9, 19]
    last = steps[9]
    assert last.truncated.all()
    assert last.dones.all()
    assert [(e.env, e.length) for e in last.episodes] == [(0, 10), (1, 10)]
    # The last observation continues the one before; the new game has one frame after zeros.
    np.testing.assert_array_equal(last.final_obs[:, :-1], steps[8].obs[:, 1:])
    assert not last.obs[:, :-1].any()
    assert last.obs[:, -1].any()


@pytest.mark.parametrize(
    "max_frames", [8, *(pytest.param(frames, marks=pytest.mark.slow) for frames in (4, 20))]
)
def test_the_shortest_games_are_counted(make, max_frames) -> None:
    """The frame number of a new game may be the next one of the old game by chance."""
    envs = make("pong", 4, 1, max_frames=max_frames)
    envs.reset()
    steps = [envs.step(np.zeros(4, np.int64)) for _ in range(30)]
    length = -(-max_frames // FRAME_SKIP)
    episodes = [episode for step in steps for episode in step.episodes]
    assert len(episodes) == 4 * (30 // length)
    assert {episode.length for episode in episodes} == {length}


# The Python environment as the wrappers of baselines


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown variant 'fast'; there are reference, engine"):
        ReferenceAtari("pong", 1, 0, variant="fast")
    with pytest.warns(UserWarning, match="not supported"), pytest.raises(UsageError, match="game"):
        ReferenceAtari("pongg", 1, 0)
    for kind in (Atari, ReferenceAtari):
        with pytest.raises(UsageError, match="unknown protocol 'old'; there are classic, machado"):
            kind("pong", 1, 0, protocol="old")


def emulator_actions(envs: ReferenceAtari) -> list[str]:
    """Return a list that is extended by the name of the emulator's action in each frame."""
    names: list[str] = []
    game = envs._games[0]
    act = game._act

    def spy(action, strength=1.0):
        names.append(action.name)
        return act(action)

    game._act = spy
    return names


@pytest.mark.parametrize("game", ["breakout", pytest.param("ms_pacman", marks=pytest.mark.slow)])
def test_how_a_game_starts(game) -> None:
    fires = game == "breakout"
    for variant in GAME_VARIANTS:
        envs = ReferenceAtari(game, 1, 0, variant=variant)
        names = emulator_actions(envs)
        openings = []
        for _ in range(60):
            names.clear()
            envs._games[0].start_game()
            openings.append(tuple(names))
        noops = {opening.count("NOOP") for opening in openings}
        if variant == "reference":
            third = envs.action_names[2]
            tail = ("FIRE",) * 4 + (third,) * 4 if fires else ()
            assert all(o == ("NOOP",) * o.count("NOOP") + tail for o in openings)
            assert (min(noops), max(noops)) == (1, 30)  # D14
        else:
            head = ("FIRE",) if fires else ()
            assert all(o == head + ("NOOP",) * o.count("NOOP") for o in openings)
            assert (min(noops), max(noops)) == (0, 28 if fires else 29)


def until(envs: ReferenceAtari, condition) -> Step:
    for actions in random_actions(envs, 2000):
        step = envs.step(actions)
        if condition(step):
            return step
    raise AssertionError("it never happened")


def test_how_a_life_starts() -> None:
    envs = ReferenceAtari("breakout", 1, 0)
    envs.reset()
    names = emulator_actions(envs)
    life_lost = until(envs, lambda step: step.dones[0] and not step.episodes)
    assert names[-12:] == ["NOOP"] * 4 + ["FIRE"] * 4 + ["RIGHT"] * 4
    assert len(envs.screens[0]) == 16
    assert not life_lost.obs[0, :-1].any()
    envs = ReferenceAtari("breakout", 1, 0, variant="engine")
    envs.reset()
    names = emulator_actions(envs)
    life_lost = until(envs, lambda step: step.dones[0] and not step.episodes)
    assert life_lost.obs[0, 0].any()
    played = []
    for _ in range(2):
        envs.step(np.array([envs.action_names.index("LEFT")]))
        played += envs.played
    assert played == ["FIRE", "LEFT"]
    assert names[-8:] == ["FIRE"] * 4 + ["LEFT"] * 4


@pytest.mark.parametrize("variant", list(GAME_VARIANTS))
def test_a_game_counts_all_its_lives_in_python_too(variant) -> None:
    envs = ReferenceAtari("ms_pacman", 1, 0, variant=variant)
    envs.reset()
    lives = 1
    for actions in random_actions(envs, 2000):
        score = envs.scores[0]
        step = envs.step(actions)
        if step.episodes:
            break
        lives += step.dones[0]
    assert lives == 3
    assert step.episodes[0].score >= score > 100
    assert envs.scores[0] == 0


@pytest.mark.parametrize("game", ["pong", "adventure"])  # 210 and 250 lines
def test_screens_are_the_frames_of_the_step_in_color(game) -> None:
    envs = ReferenceAtari(game, 2, 0)
    envs.reset()
    for actions in random_actions(envs, 5):
        step = envs.step(actions)
    assert [len(screens) for screens in envs.screens] == [FRAME_SKIP] * 2
    height = {"pong": 210, "adventure": 250}[game]
    assert envs.screens[0][0].shape == (height, 160, 3)
    for i, screens in enumerate(envs.screens):
        np.testing.assert_array_equal(
            step.obs[i, -1], shrink(grayscale(np.maximum(screens[2], screens[3])))
        )


def test_the_screens_end_with_the_game() -> None:
    envs = ReferenceAtari("breakout", 1, 0, variant="engine")
    envs.reset()
    until(envs, lambda step: step.episodes)
    assert 1 <= len(envs.screens[0]) <= FRAME_SKIP
    # The frames before the first observation of the next game are not among them.
    envs.step(np.array([0]))
    assert len(envs.screens[0]) == FRAME_SKIP


def test_the_draws_are_uniform() -> None:
    random = np.random.RandomState(0)
    counts = np.bincount([draw(random, 30) for _ in range(30_000)])
    assert len(counts) == 30
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_grayscale_has_the_weights_of_brightness() -> None:
    colors = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert grayscale(colors).tolist() == [[255, 76, 150, 29]]


@pytest.mark.parametrize(
    "height",
    [210, *(pytest.param(height, marks=pytest.mark.slow) for height in (214, 220, 230, 250))],
)
def test_shrink_averages_areas(height) -> None:
    screen = np.random.default_rng(0).integers(0, 256, (height, 160), np.uint8)
    # Each old pixel becomes 84 x 84 equal ones, so that areas are sums of whole pixels.
    rows = np.repeat(np.arange(height), SIDE).reshape(SIDE, height)
    columns = np.repeat(np.arange(160), SIDE).reshape(SIDE, 160)
    exact = np.array([[screen[np.ix_(r, c)].mean() for c in columns] for r in rows])
    assert abs(shrink(screen) - exact).max() <= 0.5 + 1e-4
    _, weights = overlaps(height)
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-6)
