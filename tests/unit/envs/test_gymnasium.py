"""The adapter of Gymnasium's environments, beside plain loops over the environments themselves."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from conftest import ROOT
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from ppo37.envs import VecEnv
from ppo37.envs.checked import checked
from ppo37.envs.gymnasium import Gymnasium
from ppo37.envs.source import EnvSource
from ppo37.envs.spaces import actions_of, observations_of
from ppo37.envs.workers import Workers
from ppo37.errors import RunError, UsageError

N = 3
LATE = 100
"""Faults come after so many steps, long after the trials at the start."""


class Line(gymnasium.Env[Any, Any]):
    """A walk on a line: the episode ends at 5, and is truncated after 12 steps.

    What it observes, and how it misbehaves, are arguments.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, fault: str = "", render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-20.0, 20.0, (2,), np.float64)
        self.action_space = spaces.Discrete(3, start=-1)
        self.fault, self.render_mode, self.games, self.total = fault, render_mode, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(-3, 3)), 0
        self.games += 1
        return self._observe(), self._info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (-1, 0, 1), action
        self.total += 1
        late = self.total > LATE
        if self.fault == "raises" and late:
            raise ZeroDivisionError("no such place")
        if self.fault == "exits" and late:
            sys.exit(7)
        self.place += action
        self.steps += 1
        reward = {"nan": np.nan, "large": 1e300}.get(self.fault if late else "", self.place / 4)
        if self.fault == "curriculum":
            reward *= max(self.games, 12)
        return self._observe(), reward, self.place == 5, self.steps == 12, self._info()

    def render(self) -> Any:
        if self.fault == "floats":  # in another order in memory
            return np.full((3, 6, 4), (20 + self.place) / 255).T
        return np.full((4, 6, 3), 20 + self.place, np.uint8)

    def close(self) -> None:
        if self.fault == "close":
            raise ValueError("cannot close")

    def _observe(self) -> Any:
        second = self.games if self.fault == "remembers" else self.steps
        return np.array([self.place, second], np.float64)

    def _info(self) -> dict[str, Any]:
        if not self.fault.startswith("mask"):
            return {}
        if self.fault == "mask none" and self.total > LATE:
            return {"action_mask": np.zeros(3, np.int8)}
        return {"action_mask": np.array([self.place > -4, True, True], np.int8)}


class Named(Line):
    """A line with arguments of names that are used on the way to it."""

    def __init__(self, name: str, make: int, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        assert (name, make) == ("x", 1)


class LessReward(gymnasium.RewardWrapper[Any, Any]):
    """A wrapper that changes rewards, which scores must not show."""

    def reward(self, reward: Any) -> float:
        return float(reward) / 10


def made(env: Any, num_envs: int = N, seed: int = 7, **arguments: Any) -> VecEnv:
    return EnvSource(env, **arguments)(num_envs, seed)


def step_often(envs: VecEnv) -> None:
    """Step until the faults have come."""
    envs.reset()
    for _ in range(LATE + 1):
        envs.step(np.ones(N, int))


def played_alone(
    make: Callable[[], gymnasium.Env[Any, Any]], actions: Any, seeds: list[int]
) -> list[Any]:
    """Play one environment by Gymnasium's own interface, each episode from its seed."""
    env, rows, episode = make(), [], 0
    obs, _ = env.reset(seed=seeds[0])
    score, length = 0.0, 0
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        score, length, last, game = score + reward, length + 1, obs, None
        if terminated or truncated:
            game, score, length, episode = (score, length), 0.0, 0, episode + 1
            obs, _ = env.reset(seed=seeds[episode])
        rows.append((obs, reward, terminated, truncated, last, game))
    return rows


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_steps_are_those_of_the_environment(env_id: str) -> None:
    """Observations, rewards, ends, last observations and scores, for 300 random steps."""
    rng = np.random.default_rng(0)
    with closing(made(env_id)) as envs:
        envs.reset()
        seeds = []
        assert isinstance(envs, Gymnasium)
        for env in range(N):
            episodes = []
            for episode in range(301):
                envs._episodes[env] = episode
                episodes.append(envs._seed(env))
            seeds.append(episodes)
        first = envs.reset()
        continuous = envs.action_space == "continuous"
        shape = (300, N, len(envs.action_names)) if continuous else (300, N)
        sizes = envs.action_dims or (1,)
        actions = rng.normal(0, 2, shape) if continuous else rng.integers(sizes[0], size=shape)
        steps = [envs.step(row) for row in actions]
    make = lambda: gymnasium.make(env_id)  # noqa: E731
    for env in range(N):
        bounds = make().action_space
        taken = actions[:, env]
        if isinstance(bounds, spaces.Box):
            taken = np.clip(taken, bounds.low, bounds.high).astype(np.float32)
        expected = played_alone(make, taken, seeds[env])
        np.testing.assert_array_equal(first[env], make().reset(seed=seeds[env][0])[0])
        for step, (obs, reward, terminated, truncated, last, game) in zip(
            steps, expected, strict=True
        ):
            np.testing.assert_array_equal(step.obs[env], np.float32(obs))
            assert step.rewards[env] == np.float32(reward)
            assert step.dones[env] == (terminated or truncated)
            assert step.truncated[env] == (truncated and not terminated)
            if terminated or truncated:
                np.testing.assert_array_equal(step.final_obs[env], np.float32(last))
            found = [(e.score, e.length) for e in step.episodes if e.env == env]
            assert found == ([] if game is None else [game])


def test_scores_are_those_below_the_wrappers() -> None:
    wrapper = f"{__name__}:LessReward"
    with closing(made(Line, wrappers=(wrapper,))) as envs:
        envs.reset()
        total, games = np.zeros(N), []
        for _ in range(40):
            step = envs.step(np.full(N, 2))
            total += step.rewards
            games += step.episodes
    assert games
    by_env = {env: sum(g.score for g in games if g.env == env) for env in range(N)}
    in_progress = envs.scores
    for env in range(N):
        assert total[env] * 10 == pytest.approx(by_env[env] + in_progress[env], abs=1e-5)


def test_a_wrapper_that_ends_the_episode_ends_the_game() -> None:
    limit = 'gymnasium.wrappers:TimeLimit {"max_episode_steps": 4}'
    with closing(made(Line, wrappers=(limit,))) as envs:
        envs.reset()
        steps = [envs.step(np.ones(N, int)) for _ in range(8)]
    assert [[e.length for e in step.episodes] for step in steps] == [
        *([[]] * 3),
        [4] * N,
        *([[]] * 3),
        [4] * N,
    ]
    assert steps[3].truncated.all()


@pytest.mark.parametrize("fault", ["", "floats"])
def test_images_are_bytes_and_the_final_one_is_that_of_the_old_episode(fault: str) -> None:
    source = EnvSource(Line, json.dumps({"fault": fault})).rendered()
    with closing(source(1, 7)) as envs:
        envs.reset()
        while not (step := envs.step(np.array([2]))).dones[0]:
            assert envs.render()[0][0, 0, 0] == 20 + step.obs[0, 0]
        assert envs.final_images[0].dtype == envs.render()[0].dtype == np.uint8
        assert envs.final_images[0][0, 0, 0] == 20 + step.final_obs[0, 0] == 25
        assert envs.render()[0][0, 0, 0] == 20 + step.obs[0, 0]


@pytest.mark.parametrize(("fault", "exact"), [("", True), ("remembers", False), ("mask", True)])
def test_restored_environments_continue_as_they_would_have(fault: str, exact: bool) -> None:
    """Those whose episodes depend on earlier ones say that they cannot be restored."""
    kwargs = json.dumps({"fault": fault})
    rng = np.random.default_rng(1)
    with closing(made(Line, kwargs=kwargs)) as envs, closing(made(Line, kwargs=kwargs)) as again:
        envs.reset()
        for _ in range(30):
            envs.step(rng.integers(1, 3, N))
        saved = envs.save()
        assert bool(saved) == exact
        assert ("cannot be replayed" in envs.text) != exact
        if not exact:
            return
        saved = [s._replace(state=json.loads(json.dumps(s.state))) for s in saved]
        assert all(s.actions.dtype == np.uint8 for s in saved)
        np.testing.assert_array_equal(again.restore(saved), envs._obs)
        for _ in range(30):
            row = rng.integers(1, 3, N)
            one, other = envs.step(row), again.step(row)
            assert one.episodes == other.episodes
            for part, same in zip(one[:5], other[:5], strict=True):
                np.testing.assert_array_equal(part, same)
        saved[0].state["sha256"] = "0" * 64
        with pytest.raises(UsageError, match=r"environment 0, .*Line.*--new-games"):
            again.restore(saved)


def test_a_mask_ends_the_observation() -> None:
    with closing(made(Line, kwargs='{"fault": "mask"}')) as envs:
        assert (envs.obs_shape, envs.view_shape) == ((5,), (2,))
        envs.reset()
        for _ in range(60):
            step = envs.step(np.where(envs._obs[:, 2] > 0, 0, 1))
            expected = np.stack([step.obs[:, 0] > -4, *np.ones((2, N))], axis=1)
            np.testing.assert_array_equal(step.obs[:, 2:], expected)
    with (
        closing(made(Line, kwargs='{"fault": "mask none"}')) as envs,
        pytest.raises(RunError, match="no action is legal"),
    ):
        step_often(envs)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "step of .*Line.* failed: ZeroDivisionError: no such place"),
        ("exits", "step of .*Line.* failed: SystemExit: 7"),
        ("nan", "step of .*Line.* gave rewards that are not finite in environment 0"),
        ("large", r"rewards that are too large for fp32 in environment 0 \(1e\+300\)"),
    ],
)
def test_failures_name_the_environment(fault: str, message: str) -> None:
    factory = checked(EnvSource(Line, json.dumps({"fault": fault})))
    envs = factory(N, 7)
    with closing(envs), pytest.raises(RunError, match=message):
        step_often(envs)


def test_rewards_that_depend_on_earlier_episodes_are_noticed_on_resume() -> None:
    """They begin to after 12 episodes, later than the trials at the start see."""
    source = EnvSource(Line, '{"fault": "curriculum"}')
    with closing(source(N, 7)) as envs, closing(source(N, 7)) as again:
        envs.reset()
        for _ in range(12 * 12 + 2):
            envs.step(np.ones(N, int))
        with pytest.raises(UsageError, match="keeps something from earlier episodes"):
            again.restore(envs.save())


def test_arguments_may_have_any_name() -> None:
    source = EnvSource(Named, '{"name": "x", "make": 1, "render_mode": null}').rendered()
    with closing(source(N, 7)) as envs:
        envs.reset()
        assert isinstance(envs, Gymnasium)
        assert envs.render()[0].shape == (4, 6, 3)


def test_an_environment_that_cannot_be_closed_is_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="close of .*Line.* failed: ValueError: cannot close"):
        made(Line, kwargs='{"fault": "close"}').close()


class NoWrapper:
    """An object that is no environment."""

    def __init__(self, env: Any) -> None:
        pass


def test_a_wrapper_has_to_be_one() -> None:
    wrapper = f"{__name__}:NoWrapper"
    with pytest.raises(UsageError, match=f"wrapper {wrapper} made a NoWrapper; it has to be a"):
        made(Line, wrappers=(wrapper,))


def test_large_images_can_be_restored() -> None:
    """Only the last observation of large ones is hashed."""
    with closing(made("Screens-v0")) as envs, closing(made("Screens-v0")) as again:
        envs.reset()
        for _ in range(3):
            step = envs.step(np.ones(N, int))
        np.testing.assert_array_equal(again.restore(envs.save()), step.obs)


def test_workers_give_the_same_bits() -> None:
    source = EnvSource("Acrobot-v1")
    rng = np.random.default_rng(2)
    with closing(source(5, 3)) as envs, closing(Workers(source, 2, 5, 3)) as workers:
        np.testing.assert_array_equal(envs.reset(), workers.reset())
        for _ in range(60):
            row = rng.integers(3, size=5)
            one, other = envs.step(row), workers.step(row)
            assert one.episodes == other.episodes
            for part, same in zip(one[:5], other[:5], strict=True):
                np.testing.assert_array_equal(part, same)
        saved = workers.save()
        assert [s.state for s in saved] == [s.state for s in envs.save()]
        np.testing.assert_array_equal(workers.restore(saved), envs._obs)


def test_a_worker_that_fails_is_named() -> None:
    source = EnvSource(f"{__file__}:Line", '{"fault": "raises"}')
    with closing(Workers(source, 1, 2, 3)) as workers:
        with pytest.raises(RunError, match=r"environments 0 to 1 failed: .*ZeroDivision") as caught:
            step_often(workers)
        assert "\n" not in str(caught.value)
        assert "in step" in caught.value.__notes__[0]  # the traceback of the worker
    with closing(Workers(source, 2, 3, 3)) as workers:
        workers.reset()
        workers._workers[1]._process.kill()
        with pytest.raises(RunError, match=r"environments 2 to 2 has ended with exit code -9"):
            workers.step(np.ones(3, int))


def test_workers_outlive_the_signals_that_stop_a_run() -> None:
    """A terminal sends them to all processes; the run needs its workers to save."""
    with closing(Workers(EnvSource("CartPole-v1"), 1, 2, 3)) as workers:
        pid = workers._workers[0]._process.pid
        assert pid is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        workers.reset()
        assert workers.step(np.ones(2, int)).obs.shape == (2, 4)
        assert len(workers.save()) == 2


IMAGES = [
    (spaces.Box(0, 255, (40, 30, 3), np.uint8), "auto", (3, 40, 30), "uint8"),
    (spaces.Box(0, 255, (4, 40, 30), np.uint8), "auto", (4, 40, 30), "uint8"),
    (spaces.Box(0, 255, (10, 10, 6), np.uint8), "last", (6, 10, 10), "uint8"),
    (spaces.Box(0, 255, (3, 40, 4), np.uint8), "first", (3, 40, 4), "uint8"),
    (spaces.Box(0, 1, (10, 10, 4), np.bool_), "auto", (4, 10, 10), "float32"),
    (spaces.Box(0, 1, (1, 36, 36), np.float32), "auto", (1, 36, 36), "float32"),
    (spaces.Box(0, 255, (5, 40, 30, 3), np.uint8), "auto", (15, 40, 30), "uint8"),
    (spaces.Box(0, 255, (84, 84), np.uint8), "auto", (1, 84, 84), "uint8"),
    (spaces.Box(0, 255, (7,), np.uint8), "auto", (7,), "uint8"),
    (spaces.Box(0, 3, (7,), np.int32), "auto", (7,), "float32"),
    (spaces.Box(-1, 1, (4, 4), np.float64), "auto", (16,), "float32"),
    (spaces.MultiBinary(5), "auto", (5,), "float32"),
]


@pytest.mark.parametrize(("space", "channels", "shape", "dtype"), IMAGES)
def test_observations(space: Any, channels: str, shape: tuple[int, ...], dtype: str) -> None:
    """Values stay the same; channels come first; bytes stay bytes only if networks divide them."""
    space.seed(0)
    obs = np.stack([space.sample() for _ in range(2)])
    found = observations_of(space, channels)
    converted = found.convert(obs)
    assert (found.shape, found.dtype) == (shape, dtype)
    assert (converted.shape, converted.dtype) == ((2, *shape), dtype)
    if len(shape) == 3 and space.shape[-1] == shape[0] and space.shape != shape:
        obs = np.moveaxis(obs, -1, 1)
    if len(space.shape) == 4:
        obs = np.moveaxis(obs, -1, 2)  # [N, stack, C, H, W]
    np.testing.assert_array_equal(converted.ravel(), obs.ravel().astype(dtype))


def test_discrete_observations_are_one_hot() -> None:
    found = observations_of(spaces.Discrete(3, start=2))
    np.testing.assert_array_equal(found.convert(np.array([2, 4])), [[1, 0, 0], [0, 0, 1]])
    found = observations_of(spaces.MultiDiscrete([2, 3]))
    np.testing.assert_array_equal(found.convert(np.array([[1, 0]])), [[0, 1, 1, 0, 0]])


def test_actions() -> None:
    """Discrete and MultiDiscrete from their starts, Box clipped to its bounds and not rescaled."""
    np.testing.assert_array_equal(
        actions_of(spaces.MultiDiscrete([2, 3], start=[5, 0])).convert(np.array([[1, 2]])), [[6, 2]]
    )
    box = actions_of(spaces.Box(np.float32([-1, 0]), np.float32([1, 2])))
    np.testing.assert_array_equal(box.convert(np.float32([[-3, 0.5]])), np.float32([[-1, 0.5]]))
    assert actions_of(spaces.MultiBinary(3)).dims == (2, 2, 2)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (10, 10, 6), np.uint8), "--channels first or last"),
        (spaces.Box(0, 255, (3, 40, 4), np.uint8), "--channels first or last"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "gymnasium.wrappers:FlattenObservation"),
        (spaces.Tuple([spaces.Discrete(2)]), "gymnasium.wrappers:FlattenObservation"),
        (spaces.Text(5), "Text"),
        (spaces.Box(-1, 1, (0,)), "have no numbers"),
        (spaces.Box(0, 255, (5000, 20, 3), np.uint8), "5000 x 20 pixels are too large"),
    ],
)
def test_other_observations_are_refused(space: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        observations_of(space)


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (0,)), spaces.MultiDiscrete([[2], [2]])])
def test_other_actions_are_refused(space: Any) -> None:
    with pytest.raises(UsageError, match=f"actions of {re.escape(str(space))} are not supported"):
        actions_of(space)


class Screens(gymnasium.Env[Any, Any]):
    """Images of noise."""

    observation_space = spaces.Box(0, 255, (24, 24, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, (24, 24, 3), np.uint8), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.np_random.integers(0, 256, (24, 24, 3), np.uint8), 1.0, False, False, {}


gymnasium.register("Screens-v0", Screens)
WRAPPERS: dict[str, tuple[str, str]] = {
    "AddRenderObservation": ("CartPole-v1", '{"render_only": true}'),
    "AddWhiteNoise": ("CartPole-v1", '{"probability_of_noise_per_pixel": 0.1}'),
    "AtariPreprocessing": ("ALE/Pong-v5", '{"frame_skip": 1}'),
    "Autoreset": ("CartPole-v1", "{}"),
    "ClipAction": ("Pendulum-v1", "{}"),
    "ClipReward": ("CartPole-v1", '{"min_reward": -1, "max_reward": 0.5}'),
    "DelayObservation": ("CartPole-v1", '{"delay": 2}'),
    "DiscretizeAction": ("Pendulum-v1", '{"bins": 5}'),
    "DiscretizeObservation": ("MountainCar-v0", '{"bins": 4}'),
    "DtypeObservation": ("Screens-v0", '{"dtype": "float32"}'),
    "FlattenObservation": ("CartPole-v1", "{}"),
    "FrameStackObservation": ("CartPole-v1", '{"stack_size": 4}'),
    "GrayscaleObservation": ("Screens-v0", '{"keep_dim": true}'),
    "MaxAndSkipObservation": ("CartPole-v1", '{"skip": 2}'),
    "NormalizeObservation": ("CartPole-v1", "{}"),
    "NormalizeReward": ("CartPole-v1", '{"gamma": 0.9}'),
    "ObstructView": (
        "Screens-v0",
        '{"obstructed_pixels_ratio": 0.2, "obstruction_width": 2}',
    ),
    "OrderEnforcing": ("CartPole-v1", "{}"),
    "PassiveEnvChecker": ("CartPole-v1", "{}"),
    "RecordEpisodeStatistics": ("CartPole-v1", "{}"),
    "RepeatAction": ("CartPole-v1", '{"num_repeats": 2}'),
    "RescaleAction": ("Pendulum-v1", '{"min_action": -1, "max_action": 1}'),
    "RescaleObservation": ("MountainCar-v0", '{"min_obs": -1, "max_obs": 1}'),
    "ReshapeObservation": ("Screens-v0", '{"shape": [12, 48, 3]}'),
    "ResizeObservation": ("Screens-v0", '{"shape": [12, 12]}'),
    "StickyAction": ("CartPole-v1", '{"repeat_action_probability": 0.25}'),
    "TimeAwareObservation": ("CartPole-v1", "{}"),
    "TimeLimit": ("CartPole-v1", '{"max_episode_steps": 10}'),
}
"""Wrappers whose arguments are plain values, each with an environment that it fits."""


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_of_gymnasium(name: str) -> None:
    """They can be used by their names, and the steps agree with those of the wrapper alone."""
    env_id, arguments = WRAPPERS[name]
    if not hasattr(gymnasium.wrappers, name):
        pytest.skip(f"this Gymnasium has no {name}")
    kwargs: dict[str, Any] = {}
    if name == "AddRenderObservation":
        kwargs["render_mode"] = "rgb_array"
    if env_id.startswith("ALE/"):
        import ale_py

        gymnasium.register_envs(ale_py)
        kwargs |= {"frameskip": 1}
    text = f"gymnasium.wrappers:{name} {arguments}"
    try:
        envs = made(env_id, num_envs=2, kwargs=json.dumps(kwargs), wrappers=(text,))
    except UsageError as error:
        if "DependencyNotInstalled" in str(error):
            pytest.skip(str(error))
        raise
    with closing(envs):
        obs = envs.reset()
        assert obs.shape == (2, *envs.obs_shape)
        zeros = (
            np.zeros((2, 1), np.float32) if envs.action_space == "continuous" else np.zeros(2, int)
        )
        for _ in range(15):
            step = envs.step(zeros)
            assert np.isfinite(step.obs.astype(float)).all()
    alone = gymnasium.make(env_id, **kwargs)
    keywords = {k: tuple(v) if k == "shape" else v for k, v in json.loads(arguments).items()}
    wrapped = getattr(gymnasium.wrappers, name)(alone, **keywords)
    found = observations_of(wrapped.observation_space)
    assert found.shape == envs.view_shape


def test_the_docs_name_every_wrapper_of_gymnasium() -> None:
    """Those in the first two rows of the table are the tested ones."""
    page = (ROOT / "docs" / "how-to" / "your-own-environment.md").read_text()
    rows = re.findall(r"^\| (.*?) \|", page.partition("`gymnasium.wrappers` |")[2], re.MULTILINE)
    names = [set(re.findall(r"`(\w+)`", row)) for row in rows[:6]]
    assert names[0] | names[1] == set(WRAPPERS)
    public = {name for name in gymnasium.wrappers.__all__ if name[0].isupper()}
    assert public <= set.union(*names)


def test_dict_observations_can_be_flattened() -> None:
    class Pair(Line):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Dict({"place": spaces.Box(-20, 20, (2,))})

        def _observe(self) -> Any:
            return {"place": np.float32([self.place, self.steps])}

    with pytest.raises(UsageError, match="FlattenObservation"):
        made(Pair)
    text = "gymnasium.wrappers:FlattenObservation"
    with closing(made(Pair, wrappers=(text,))) as envs:
        assert envs.obs_shape == FlattenObservation(Pair()).observation_space.shape
