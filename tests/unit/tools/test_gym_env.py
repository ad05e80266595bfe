"""`make_env` shows what the agent was trained on: it is compared with what it wraps."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env

from ppo37 import evaluate, from_preset, load_agent, make_env, train
from ppo37.build import make_factory
from ppo37.envs.atari import Atari
from ppo37.envs.catch import MAX_BALLS, Catch
from ppo37.errors import UsageError
from ppo37.tools.evaluate import games_seed
from ppo37.tools.gym_env import AgentEnv

ATARI: dict[str, Any] = {"game": "breakout", "network": "nature"}


def test_a_loop_of_ones_own_plays_the_evaluated_game(breakout_run: Path) -> None:
    agent, env = load_agent(breakout_run, seed=1), make_env(breakout_run, whole_games=True)
    obs, _ = env.reset(seed=1)
    score, steps, info = 0.0, 0, {}
    while "episode" not in info:
        obs, reward, terminated, truncated, info = env.step(agent.act(obs))
        score, steps = score + reward, steps + 1
    env.close()
    played = evaluate(breakout_run, 1, seed=1)
    assert (terminated, truncated) == (True, False)
    assert info["episode"] == {"r": played.scores[0], "l": played.lengths[0]}
    assert (score, steps) == (played.scores[0], played.lengths[0])


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_steps_of_atari_are_those_of_training(render_mode: str | None) -> None:
    """Rewards are compared with their signs, which training learns from."""
    env = AgentEnv(tiny(**ATARI), render_mode)
    envs = Atari("breakout", 1, games_seed(4))
    expected, (obs, _) = envs.reset(), env.reset(seed=4)
    rng, lives, rewards = np.random.default_rng(0), 0, set()
    for _ in range(250):
        assert np.array_equal(obs, expected[0])
        action = rng.integers(4)
        step = envs.step(np.array([action]))
        obs, reward, terminated, truncated, info = env.step(action)
        assert (np.sign(reward), terminated, truncated) == (step.rewards[0], step.dones[0], False)
        assert ("episode" in info) == bool(step.episodes)
        rewards.add(reward)
        expected = step.obs
        if terminated:
            lives += not step.episodes
            assert np.array_equal(obs, (step.final_obs if step.episodes else step.obs)[0])
            obs, _ = env.reset()
    assert lives > 3, "lives were lost"
    assert rewards >= {0.0, 1.0}
    envs.close()
    env.close()


def test_whole_games_continue_when_a_life_is_lost() -> None:
    env = AgentEnv(tiny(**ATARI), whole_games=True)
    lives = AgentEnv(tiny(**ATARI))
    env.reset(seed=4)
    lives.reset(seed=4)
    ends, steps, done = 0, 0, False
    while not done:
        _, _, done, _, info = env.step(1 + steps % 3)
        _, _, ended, _, _ = lives.step(1 + steps % 3)
        steps, ends = steps + 1, ends + ended
        if ended:
            lives.reset()
    assert info["episode"]["l"] == steps
    assert ends == 5, "Breakout has five lives"
    env.close()
    lives.close()


def test_a_time_limit_truncates_and_a_miss_terminates() -> None:
    """Catch is truncated after ten balls; the last observation is that of the old episode."""
    env, played = AgentEnv(tiny()), Catch(1, games_seed(0))
    (obs, _), expected = env.reset(seed=0), played.reset()
    ends = {}
    for count in range(400):
        board = obs[0, 3::6, 3::6]
        ball, paddle = np.argwhere(board == 255)[0], np.flatnonzero(board[-1] == 128)
        aim = 1 if not len(paddle) else 1 + int(np.sign(ball[1] - paddle[0]))
        action = aim if count < 200 else 0
        obs, reward, terminated, truncated, info = env.step(action)
        step = played.step(np.array([action]))
        assert reward == step.rewards[0]
        last = step.final_obs if step.dones[0] else step.obs
        assert np.array_equal(obs, last[0])
        if terminated or truncated:
            assert not (terminated and truncated)
            ends["truncated" if truncated else "terminated"] = info["episode"]
            obs, _ = env.reset()
            assert np.array_equal(obs, step.obs[0]), "the next game"
    assert ends["truncated"]["r"] == MAX_BALLS
    assert ends["terminated"]["r"] < MAX_BALLS
    assert expected.shape == (1, 1, 36, 36)


def test_a_reset_in_the_middle_starts_another_game_and_a_seed_the_same() -> None:
    env = AgentEnv(tiny())
    firsts = [env.reset(seed=seed)[0] for seed in (7, None, None, 7)]
    assert np.array_equal(firsts[0], firsts[3])
    assert not np.array_equal(firsts[0], firsts[1]) or not np.array_equal(firsts[0], firsts[2])


@pytest.mark.parametrize(
    ("changes", "shape", "actions"),
    [
        ({}, (1, 36, 36), spaces.Discrete(3)),
        ({**ATARI, "game": "pong"}, (4, 84, 84), spaces.Discrete(6)),
        pytest.param(
            {"game": "pong", "network": "mlp", "observation": "ram", "action_space": "joystick"},
            (1, 128),
            spaces.MultiDiscrete([3, 3, 2]),
            marks=pytest.mark.slow,
        ),
        (
            {"game": "breakout", "network": "mlp", "observation": "ram"}
            | {"action_space": "continuous", "frame_stack": 2},
            (2, 128),
            spaces.Box(-np.inf, np.inf, (3,), np.float32),
        ),
    ],
    ids=["catch", "pixels", "joystick", "continuous"],
)
def test_gymnasiums_own_check_passes(
    changes: dict[str, Any], shape: tuple[int, ...], actions: spaces.Space[Any]
) -> None:
    env = AgentEnv(tiny(**changes), "rgb_array")
    assert env.observation_space == spaces.Box(0, 255, shape, np.uint8)
    assert env.action_space == actions
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(Box action space|alternative render modes).*")
        warnings.simplefilter("error", append=True)
        check_env(env)
    env.close()


def test_render_shows_the_screen() -> None:
    with AgentEnv(tiny(**ATARI), "rgb_array") as env:
        assert env.metadata == {"render_modes": ["rgb_array"], "render_fps": 15}
        obs, _ = env.reset(seed=0)
        for _ in range(3):
            screen = env.render()
            assert screen.shape == (210, 160, 3)
            gray = screen[..., :1].repeat(1, axis=2).mean()
            assert gray > 0
            obs, *_ = env.step(1)
    with AgentEnv(tiny(), "rgb_array") as env:
        obs, _ = env.reset(seed=0)
        while not (step := env.step(0))[2]:
            assert np.array_equal(env.render()[..., 0], step[0][0])
        assert np.array_equal(env.render()[..., 0], step[0][0]), "the ball has landed"
        obs, _ = env.reset()
        assert np.array_equal(env.render()[..., 0], obs[0])


def test_an_environment_of_gymnasium_is_the_one_that_gymnasium_makes(tmp_path: Path) -> None:
    """Its own class, stepped with the same seed and actions, is the independent copy."""
    config = from_preset("classic_control", "CartPole-v1", "cpu", env="CartPole-v1")
    config = dataclasses.replace(config, total_timesteps=config.batch_size)
    train(config, tmp_path / "run")
    agent, env = load_agent(tmp_path / "run", seed=3), make_env(tmp_path / "run")
    played = evaluate(tmp_path / "run", 1, seed=3)
    assert env.observation_space.shape == (4,)
    assert env.action_space == spaces.Discrete(2)
    obs, _ = env.reset(seed=3)
    own = CartPoleEnv()
    own.reset(seed=0)
    own.state = obs.astype(np.float64)
    done, total = False, 0.0
    while not done:
        action = agent.act(obs)
        obs, reward, done, truncated, info = env.step(action)
        expected = own.step(int(action))
        np.testing.assert_allclose(obs, expected[0], atol=1e-4)
        assert (reward, done, truncated) == (1.0, expected[2], False)
        total += reward
    assert info["episode"] == {"r": played.scores[0], "l": played.lengths[0]}
    assert total == played.scores[0]
    assert abs(obs[2]) > own.theta_threshold_radians or abs(obs[0]) > own.x_threshold
    env.close()


def test_wrong_use_gets_one_line(finished_run: Path, tmp_path: Path) -> None:
    env = make_env(finished_run)
    assert env.render() is None
    with pytest.raises(UsageError, match=r"call reset\(\) before step"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"3 is not an action of Discrete\(3\)"):
        env.step(3)
    with pytest.raises(UsageError, match=r'must be None or "rgb_array", not .human'):
        make_env(finished_run, "human")
    train(tiny(total_timesteps=64), tmp_path / "run", make_envs=Catch)
    with pytest.raises(UsageError, match="only you may name"):
        make_env(tmp_path / "run")
    own = make_env(tmp_path / "run", "rgb_array", make_envs=Catch)
    own.reset(seed=0)
    assert own.render().shape == (36, 36, 3)
    assert own.metadata["render_fps"] == 30, "the environment does not name its speed"


def test_the_agent_normalizes_not_the_environment(tmp_path: Path) -> None:
    config = tiny(game="pong", network="mlp", observation="ram", norm_obs=True, norm_reward=True)
    env, envs = AgentEnv(config), make_factory(config, 1)(1, games_seed(0))
    assert np.array_equal(env.reset(seed=0)[0], envs.reset()[0])
    envs.close()
    env.close()
