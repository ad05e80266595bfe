"""D28-D31: normalized observations and rewards, against explicit sums."""

import math

import numpy as np
import pytest
from gymnasium.wrappers.utils import RunningMeanStd

from ppo37.algorithm.normalization import add_values, initial_statistics
from ppo37.envs.atari import Atari
from ppo37.envs.contract import Step, VecEnv
from ppo37.envs.normalize import NormalizedObservations, ScaledRewards

GAMMA, STEPS, ENVS = 0.9, 60, 3


class Script(VecEnv):
    """Environments with a fixed list of observations and rewards."""

    num_envs, obs_shape, action_names = ENVS, (1, 4), ("ONLY",)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.obs = rng.integers(0, 256, (STEPS + 1, ENVS, 1, 4)).astype(np.uint8)
        self.obs[..., 0] = 7  # a byte that never changes
        self.final_obs = rng.integers(0, 256, (STEPS, ENVS, 1, 4)).astype(np.uint8)
        self.rewards = rng.normal(2.0, 30.0, (STEPS, ENVS)).astype(np.float32)
        self.dones = rng.random((STEPS, ENVS)) < 0.1
        self.t = 0

    def reset(self):
        self.t = 0
        return self.obs[0]

    def step(self, actions) -> Step:
        t = self.t
        self.t += 1
        none = np.zeros(ENVS, bool)
        return Step(self.obs[t + 1], self.rewards[t], self.dones[t], none, self.final_obs[t], [])


def test_statistics_are_those_of_all_values_and_of_a_peer() -> None:
    batches = [np.random.default_rng(k).normal(3.0, 50.0, (k + 1, 5)) for k in range(20)]
    ours, theirs = initial_statistics((5,)), RunningMeanStd(epsilon=1e-4, shape=(5,))
    for batch in batches:
        add_values(ours, batch)
        theirs.update(batch)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
    np.testing.assert_allclose(ours.variance, theirs.var, rtol=1e-12)
    assert float(ours.number) == pytest.approx(theirs.count, rel=1e-12)
    rows = np.concatenate(batches)
    np.testing.assert_allclose(ours.mean, rows.mean(0), rtol=1e-4)
    np.testing.assert_allclose(ours.variance, rows.var(0), rtol=1e-3)


def test_observations_are_deviations_from_all_that_was_seen_so_far() -> None:
    script, statistics = Script(), initial_statistics((1, 4))
    envs = NormalizedObservations(script, statistics, clip=1.5, learn=True)
    shown = [envs.reset()]
    finals = []
    for _ in range(STEPS):
        step = envs.step(np.zeros(ENVS, np.int64))
        shown.append(step.obs)
        finals.append(step.final_obs)
    tiny = 1e-4  # the weight of the initial mean 0 and variance 1
    for t in (0, 1, 7, STEPS):
        seen = script.obs[: t + 1, :, 0].astype(float).reshape(-1, 4)
        n = len(seen) + tiny
        for k in range(4):
            mean = math.fsum(seen[:, k]) / n
            square = (tiny + math.fsum(seen[:, k] ** 2)) / n
            deviation = math.sqrt(max(square - mean**2, 0.0) + 1e-8)
            for env in range(ENVS):
                exact = (script.obs[t, env, 0, k] - mean) / deviation
                assert shown[t][env, 0, k] == pytest.approx(max(-1.5, min(1.5, exact)), rel=1e-3)
                if t > 0:
                    exact = (script.final_obs[t - 1, env, 0, k] - mean) / deviation
                    bounded = max(-1.5, min(1.5, exact))
                    assert finals[t - 1][env, 0, k] == pytest.approx(bounded, rel=1e-3)
    assert max(abs(obs).max() for obs in shown) == 1.5
    assert shown[0].dtype == np.float32


def test_statistics_do_not_change_without_learning() -> None:
    statistics = initial_statistics((1, 4))
    add_values(statistics, Script().obs[:, 0])
    before = [part.copy() for part in statistics]
    envs = NormalizedObservations(Script(), statistics, clip=10.0, learn=False)
    envs.reset()
    envs.step(np.zeros(ENVS, np.int64))
    assert all(np.array_equal(a, b) for a, b in zip(before, statistics, strict=True))


def test_rewards_are_in_deviations_of_the_discounted_return() -> None:
    """With scalars; the return restarts from 0 after the end of an episode."""
    script, statistics = Script(), initial_statistics(())
    envs = ScaledRewards(script, statistics, GAMMA, clip=2.0)
    envs.reset()
    found = [envs.step(np.zeros(ENVS, np.int64)).rewards for _ in range(STEPS)]
    returns = [0.0] * ENVS
    seen: list[float] = []
    cut = 0
    for t in range(STEPS):
        for env in range(ENVS):
            returns[env] = GAMMA * returns[env] + float(script.rewards[t, env])
            seen.append(returns[env])
        n = len(seen) + 1e-4
        mean = math.fsum(seen) / n
        variance = (1e-4 + math.fsum(r * r for r in seen)) / n - mean**2
        for env in range(ENVS):
            exact = float(script.rewards[t, env]) / math.sqrt(variance + 1e-8)
            cut += abs(exact) > 2.0
            assert found[t][env] == pytest.approx(max(-2.0, min(2.0, exact)), rel=1e-5)
            if script.dones[t, env]:
                returns[env] = 0.0
    assert cut > 0
    assert script.dones.any()


def test_discounted_returns_are_restored() -> None:
    def make() -> ScaledRewards:
        inner = Atari("breakout", 2, 1, num_threads=1, reseed_interval=50, clip_rewards=False)
        return ScaledRewards(inner, statistics, GAMMA, 10.0)

    statistics = initial_statistics(())
    envs = make()
    envs.reset()
    rng = np.random.default_rng(0)
    while not envs._returns.any():
        envs.step(rng.integers(4, size=2))
    other = make()
    other.restore(envs.save())
    assert np.array_equal(other._returns, envs._returns)
    envs.close()
    other.close()


def test_rewards_are_raw_without_clipping() -> None:
    """Space Invaders has rewards of 5 and more; clipped ones are their signs."""
    steps = {}
    for clip in (True, False):
        envs = Atari("space_invaders", 2, 1, num_threads=1, clip_rewards=clip)
        envs.reset()
        rng = np.random.default_rng(0)
        steps[clip] = np.array([envs.step(rng.integers(6, size=2)).rewards for _ in range(300)])
        envs.close()
    assert steps[False].max() >= 5
    np.testing.assert_array_equal(np.sign(steps[False]), steps[True])
