"""`Atari` on a fake engine that plays a script, the watchdog, and the rules of catch."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from ppo37.envs.atari import env as atari
from ppo37.envs.atari.protocols import OBS_SHAPE
from ppo37.envs.atari.watchdog import Watchdog
from ppo37.envs.catch import CELLS, MAX_BALLS, SIDE, Catch
from ppo37.envs.contract import Episode

# Atari on a fake engine


class Event(NamedTuple):
    """The engine's result of one step in one environment.

    restart: the frame number at which the engine started a new game; None if it did not.
    """

    reward: int = 0
    terminated: bool = False
    truncated: bool = False
    restart: int | None = None
    lives: int = 3


PLAY = Event()
LIFE_LOST = Event(terminated=True)
GAME_OVER = Event(terminated=True, restart=7)
CUT_OFF = Event(truncated=True, restart=7)


class FakeEngine:
    """An engine that plays a script, one list of events per environment, and counts frames."""

    def __init__(self, script: list[list[Event]], actions: tuple[str, ...], start: int) -> None:
        self.ale = SimpleNamespace(
            get_action_set=lambda: [SimpleNamespace(name=name) for name in actions]
        )
        self.sent: list[list[int]] = []
        self.closed = False
        self._num_envs = len(script)
        self._steps = zip(*script, strict=True)
        self._start = start

    def reset(
        self, seed: np.ndarray, options: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        assert seed.shape == (self._num_envs,)
        assert options["reset_mask"].all()
        self._episode_frames = np.full(self._num_envs, self._start)
        self._frames = self._episode_frames + 5  # frames before the reset still count
        return self._observe(), self._info()

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        self.sent.append(actions.tolist())
        events = next(self._steps)
        self._frames = self._frames + 4
        self._episode_frames = self._episode_frames + 4
        last = self._observe()
        for i, event in enumerate(events):
            if event.restart is not None:
                self._episode_frames[i] = event.restart
                self._frames[i] += event.restart
        rewards, terminated, truncated = (
            np.array([event[field] for event in events]) for field in range(3)
        )
        info = self._info() | {"lives": np.array([event.lives for event in events])}
        if (terminated | truncated).any():
            info["final_obs"] = last
        return self._observe(), rewards, terminated, truncated, info

    def close(self) -> None:
        self.closed = True

    def _observe(self) -> np.ndarray:
        """Return the number of frames as the value of all pixels."""
        frames = self._frames.astype(np.uint8)[:, None, None, None]
        return np.broadcast_to(frames, (self._num_envs, *OBS_SHAPE))

    def _info(self) -> dict[str, np.ndarray]:
        return {"frame_number": self._frames, "episode_frame_number": self._episode_frames}


Start = Callable[..., tuple[atari.Atari, FakeEngine]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that starts an `Atari` that plays a script."""
    made = []

    def start(
        *script: list[Event],
        protocol: str = "classic",
        actions: tuple[str, ...] = ("NOOP", "FIRE", "UP"),
        frame: int = 1,
        first_env: int = 0,
    ) -> tuple[atari.Atari, FakeEngine]:
        engine = FakeEngine(list(script), actions, frame)
        monkeypatch.setattr(atari, "_make_engine", lambda *_: engine)
        envs = atari.Atari("pong", len(script), 0, protocol, first_env=first_env)
        envs.reset()
        made.append(envs)
        return envs, engine

    yield start
    for envs in made:
        envs.close()


def steps(envs: atari.Atari, count: int, action: int = 2) -> list[Any]:
    return [envs.step(np.full(envs.num_envs, action)) for _ in range(count)]


def test_a_lost_life_is_done_but_no_end_of_the_game(start: Start) -> None:
    envs, _ = start([PLAY, LIFE_LOST, PLAY, LIFE_LOST, GAME_OVER, PLAY])
    seen = steps(envs, 6)
    assert [bool(step.dones[0]) for step in seen] == [False, True, False, True, True, False]
    assert [step.episodes for step in seen] == [[], [], [], [], [Episode(0, 0.0, 5)], []]
    assert not any(step.truncated.any() for step in seen)


def test_the_number_of_lives_is_ignored(start: Start) -> None:
    """Some games show 0 lives in the last or before the first one, or give extra lives."""
    lives = [0, 3, 4, 0, 1, 0, 0]
    envs, _ = start([Event(lives=number) for number in lives])
    seen = steps(envs, len(lives))
    assert not any(step.dones.any() or step.episodes for step in seen)


def test_fire_is_pressed_once_after_a_lost_life_where_it_was_lost(start: Start) -> None:
    envs, engine = start([LIFE_LOST, PLAY, GAME_OVER, PLAY], [PLAY, LIFE_LOST, PLAY, CUT_OFF])
    steps(envs, 4)
    assert engine.sent == [[2, 2], [1, 2], [2, 1], [2, 2]]


def test_a_reset_clears_the_lost_life_and_the_score(start: Start) -> None:
    envs, engine = start([Event(reward=5, terminated=True), GAME_OVER])
    steps(envs, 1)
    envs.reset()
    assert steps(envs, 1)[0].episodes == [Episode(0, 0.0, 1)]
    assert engine.sent == [[2], [2]]


@pytest.mark.parametrize(
    "settings", [{"protocol": "machado"}, {"actions": ("NOOP", "LEFT", "RIGHT")}]
)
def test_no_action_is_replaced_without_automatic_fire(start: Start, settings: Any) -> None:
    envs, engine = start([LIFE_LOST, PLAY], **settings)
    steps(envs, 2)
    assert engine.sent == [[2], [2]]


def test_the_actions_of_the_caller_do_not_change(start: Start) -> None:
    envs, engine = start([LIFE_LOST, PLAY])
    actions = np.array([2])
    envs.step(actions)
    envs.step(actions)
    assert engine.sent == [[2], [1]]
    assert actions.tolist() == [2]


def test_machado_is_done_only_at_the_end_of_a_game(start: Start) -> None:
    envs, _ = start([LIFE_LOST, PLAY, GAME_OVER, CUT_OFF], protocol="machado")
    seen = steps(envs, 4)
    assert [bool(step.dones[0]) for step in seen] == [False, False, True, True]
    assert [bool(step.truncated[0]) for step in seen] == [False, False, False, True]


@pytest.mark.parametrize("frame", range(1, 31))
@pytest.mark.parametrize("restart", [1, 9, 30])
def test_a_game_of_one_step_is_counted(start: Start, frame: int, restart: int) -> None:
    """A new game may start with the next frame number of the old one."""
    over = Event(reward=1, terminated=True, restart=restart)
    envs, _ = start([over, over, PLAY], frame=frame)
    seen = steps(envs, 3)
    assert [step.episodes for step in seen] == [[Episode(0, 1.0, 1)], [Episode(0, 1.0, 1)], []]


def test_a_life_lost_with_the_time_limit_ends_the_game(start: Start) -> None:
    """The engine then reports a termination and starts a new game."""
    envs, engine = start([Event(reward=2), Event(reward=3, terminated=True, restart=4), PLAY])
    seen = steps(envs, 3)
    assert seen[1].dones.all()
    assert not seen[1].truncated.any()
    assert seen[1].episodes == [Episode(0, 5.0, 2)]
    assert engine.sent[2] == [2]  # the engine itself pressed FIRE for the new game


def test_a_truncation_clears_the_score_and_keeps_the_last_observation(start: Start) -> None:
    envs, _ = start([Event(reward=10), CUT_OFF, Event(reward=-1), CUT_OFF])
    seen = steps(envs, 4)
    assert seen[1].episodes == [Episode(0, 10.0, 2)]
    assert seen[3].episodes == [Episode(0, -1.0, 2)]
    for step in (seen[1], seen[3]):
        assert step.truncated.all()
        assert step.dones.all()
        assert (step.final_obs + 7 == step.obs).all()  # the new game started seven frames later


def test_environments_that_end_together_keep_their_own_scores(start: Start) -> None:
    envs, _ = start(
        [Event(reward=1), Event(reward=4, terminated=True, restart=2), PLAY],
        [Event(reward=100), LIFE_LOST, Event(reward=7)],
        [Event(reward=-2), Event(reward=-3, truncated=True, restart=3), Event(reward=9)],
    )
    seen = steps(envs, 3)
    assert seen[1].episodes == [Episode(0, 5.0, 2), Episode(2, -5.0, 2)]
    assert seen[1].dones.tolist() == [True, True, True]
    assert seen[1].truncated.tolist() == [False, False, True]
    assert envs._scores.tolist() == [0, 107, 9]


def test_episodes_have_the_global_number_of_the_environment(start: Start) -> None:
    envs, _ = start([PLAY], [GAME_OVER], first_env=6)
    assert [episode.env for step in steps(envs, 1) for episode in step.episodes] == [7]
    steps_made = play_catch(Catch(2, 0, first_env=6), towards_the_ball, MAX_BALLS * (CELLS - 1))
    assert [episode.env for episode in steps_made[-1].episodes] == [6, 7]


def test_rewards_are_signs_and_scores_are_raw(start: Start) -> None:
    envs, _ = start([Event(reward=400), Event(reward=-25), GAME_OVER])
    seen = steps(envs, 3)
    assert [float(step.rewards[0]) for step in seen] == [1, -1, 0]
    assert seen[0].rewards.dtype == np.float32
    assert seen[2].episodes == [Episode(0, 375.0, 3)]


def test_a_wrong_action_never_reaches_the_engine(start: Start) -> None:
    envs, engine = start([PLAY], [PLAY])
    with pytest.raises(ValueError, match=r"action 3 of environment 1 is not in 0\.\.2"):
        envs.step(np.array([0, 3]))
    assert engine.sent == []


def test_close_closes_the_engine(start: Start) -> None:
    envs, engine = start([PLAY])
    envs.close()
    assert engine.closed
    assert not envs._watchdog._thread.is_alive()


# The watchdog

HANGING = """
    import threading, types
    import numpy as np
    from ppo37.envs.atari import env as atari

    class Hanging:
        ale = types.SimpleNamespace(
            get_action_set=lambda: [types.SimpleNamespace(name=n) for n in ("NOOP", "FIRE")]
        )

        def reset(self, seed, options):
            zeros = np.zeros(2, np.int64)
            return None, {"frame_number": zeros, "episode_frame_number": zeros}

        def step(self, actions):
            threading.Event().wait()

    atari._make_engine = lambda *_: Hanging()
    envs = atari.Atari("pong", 2, 5, first_env=6, watchdog_s=3.0)
    print(envs._seeds(slice(None)).tolist(), flush=True)
    envs.reset()
    envs.step(np.array([1, 0]))
    print("continued")
"""


def test_a_hanging_emulator_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HANGING)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    seeds = done.stdout.strip()
    assert seeds.startswith("[")
    assert "\n" not in seeds  # it did not continue
    message, dump = done.stderr.split("\n", 1)
    assert "has not answered for 3 s" in message
    for part in ("pong", "environments 6..7", f"seeds {seeds}", "actions [1 0]", "ppo37 resume"):
        assert part in message
    assert "most recent call first" in dump
    assert "in step" in dump


def test_the_watchdog_checks_only_guarded_blocks() -> None:
    ended: list[Any] = []
    watchdog = Watchdog(0.1, lambda: "a test")
    watchdog._end_process = ended.append  # type: ignore[method-assign]
    for doing in range(3):
        with watchdog.guard(doing):
            pass
    with pytest.raises(RuntimeError), watchdog.guard("failing"):
        raise RuntimeError
    watchdog._closed.wait(0.5)
    assert ended == []
    with watchdog.guard("hanging"):
        watchdog._closed.wait(0.5)
    watchdog.close()
    assert set(ended) == {"hanging"}


# Catch


def play_catch(envs: Catch, policy: Callable[[np.ndarray], np.ndarray], steps: int) -> list[Any]:
    obs = envs.reset()
    results = []
    for _ in range(steps):
        results.append(envs.step(policy(obs)))
        obs = results[-1].obs
    return results


def towards_the_ball(obs: np.ndarray) -> np.ndarray:
    """Choose left, stay or right (0, 1, 2) from the pixels."""
    cell = SIDE // CELLS
    board = obs[:, 0, ::cell, ::cell]
    ball = board[:, :-1].max(axis=1).argmax(axis=1)
    paddle = board[:, -1].argmax(axis=1)
    return np.sign(ball - paddle) + 1


def scores(results: list[Any]) -> list[float]:
    return [episode.score for step in results for episode in step.episodes]


def test_catch_shows_one_ball_and_one_paddle() -> None:
    envs = Catch(4, 0)
    obs = envs.reset()
    assert obs.shape == (4, *envs.obs_shape)
    assert obs.dtype == np.uint8
    cell = (SIDE // CELLS) ** 2
    for value in (128, 255):
        assert ((obs == value).sum(axis=(1, 2, 3)) == cell).all()


def test_optimal_play_catches_ten_balls_and_is_truncated() -> None:
    games = 8
    length = MAX_BALLS * (CELLS - 1)
    results = play_catch(Catch(games, 1), towards_the_ball, 2 * length)
    assert scores(results) == [MAX_BALLS] * 2 * games
    ends = [t for t, step in enumerate(results) if step.dones.any()]
    assert ends == [length - 1, 2 * length - 1]
    for step in (results[t] for t in ends):
        assert step.dones.all()
        assert step.truncated.all()
        assert (step.rewards == 1).all()
        # The last observation shows the caught ball, the first of the next game a ball at the top.
        assert not (step.final_obs[:, 0, 0] == 255).any()
        assert (step.final_obs[:, 0, -1] == 255).any(axis=1).all()
        assert (step.obs[:, 0, 0] == 255).any(axis=1).all()


def test_a_miss_scores_and_ends_the_game_without_truncation() -> None:
    def away_from_the_ball(obs: np.ndarray) -> np.ndarray:
        cell = SIDE // CELLS
        ball = obs[:, 0, ::cell, ::cell][:, :-1].max(axis=1).argmax(axis=1)
        return np.where(ball < CELLS / 2, 2, 0)

    results = play_catch(Catch(8, 1), away_from_the_ball, 3 * (CELLS - 1))
    assert scores(results) == [1] * 3 * 8
    for t, step in enumerate(results):
        landed = t % (CELLS - 1) == CELLS - 2
        assert (step.dones == landed).all()
        assert (step.rewards == landed).all()
        assert not step.truncated.any()


def test_random_play_of_catch_scores_little_more_than_one() -> None:
    rng = np.random.default_rng(0)
    results = play_catch(Catch(100, 0), lambda obs: rng.integers(3, size=len(obs)), 300)
    assert 1.1 < np.mean(scores(results)) < 1.4


def test_the_paddle_stays_on_the_board() -> None:
    results = play_catch(Catch(1, 0), lambda _: np.array([0]), CELLS - 2)
    assert (results[-1].obs[0, 0, -1] == 128).argmax() == 0
    assert (results[-1].obs[0, 0, -1] == 128).sum() == SIDE // CELLS


def test_catch_is_determined_by_the_seed_and_the_global_number_of_the_environment() -> None:
    def seen(envs: Catch) -> np.ndarray:
        return np.array([step.obs for step in play_catch(envs, towards_the_ball, 40)])

    base = seen(Catch(3, 5))
    np.testing.assert_array_equal(base, seen(Catch(3, 5)))
    np.testing.assert_array_equal(base[:, 1:], seen(Catch(2, 5, first_env=1)))
    assert not np.array_equal(base[:, 0], base[:, 1])
    assert not np.array_equal(base, seen(Catch(3, 5, index=1)))
    with pytest.raises(ValueError, match="environment 0"):
        Catch(1, 0).step(np.array([3]))
