"""The content of a rollout, step by step, in an environment with scripted steps."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
import torch

from ppo37.algorithm.rollout import allocate, collect
from ppo37.algorithm.update import make_batch
from ppo37.backends.threads import RolloutThreads, split_envs
from ppo37.envs import Episode, Step, env_factory
from ppo37.randomness import noise

SHAPE = (1, 2, 2)


class Script:
    """Two environments with observation = 10 * step + env, so that every row is known."""

    num_envs = 2

    def __init__(self) -> None:
        self.t = 0
        self.actions: list[list[int]] = []

    def reset(self) -> np.ndarray:
        return self.obs()

    def obs(self, offset: int = 0) -> np.ndarray:
        values = np.array([10 * self.t + offset, 10 * self.t + offset + 1], np.uint8)
        return np.broadcast_to(values[:, None, None, None], (2, *SHAPE)).copy()

    def step(self, actions: np.ndarray) -> Step:
        self.actions.append(actions.tolist())
        self.t += 1
        dones = np.array([self.t == 2, self.t == 3])
        truncated = np.array([False, self.t == 3])
        episodes = [Episode(1, 7.0, 3)] if self.t == 3 else []
        rewards = np.array([self.t, -self.t], np.float32)
        return Step(self.obs(), rewards, dones, truncated, self.obs(100), episodes)


def act(
    obs: torch.Tensor, lstm_state: torch.Tensor, uniforms: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return simple functions of the inputs; the LSTM state counts steps."""
    first = obs.flatten(1)[:, 0].float()
    return (uniforms * 4).long(), -first, first, lstm_state + 1


def test_every_row_of_a_rollout() -> None:
    script = Script()
    buffers = allocate(3, 2, SHAPE, torch.device("cpu"), lstm_size=1)
    buffers.final_values.fill_(99.0)  # left from the rollout before
    uniforms = torch.tensor([[0.0, 0.3], [0.6, 0.9], [0.3, 0.0], [0.9, 0.9]])
    lstm_state = torch.tensor([[0.0], [5.0]])
    obs, lstm_state, episodes = collect(
        script.step, act, buffers, script.obs(), lstm_state, uniforms
    )
    assert buffers.obs[:, :, 0, 0, 0].tolist() == [[0, 1], [10, 11], [20, 21]]
    assert script.actions == buffers.actions.tolist() == [[0, 1], [2, 3], [1, 0]]
    assert buffers.log_probs.tolist() == [[0, -1], [-10, -11], [-20, -21]]
    assert buffers.values.tolist() == [[0, 1], [10, 11], [20, 21], [30, 31]]
    assert buffers.rewards.tolist() == [[1, -1], [2, -2], [3, -3]]
    assert buffers.dones.tolist() == [[0, 0], [1, 0], [0, 1]]
    # Only the truncated environment has a final value, that of its own last observation.
    assert buffers.final_values.tolist() == [[0, 0], [0, 0], [0, 131]]
    assert obs[:, 0, 0, 0].tolist() == [30, 31]
    # The state from before the rollout; it is zero after a step that ended an episode.
    assert buffers.lstm_state.tolist() == [[0.0], [5.0]]
    assert lstm_state.tolist() == [[1.0], [0.0]]
    assert episodes == [Episode(1, 7.0, 3)]


def test_a_batch_flattens_steps_then_environments() -> None:
    script = Script()
    buffers = allocate(3, 2, SHAPE, torch.device("cpu"))
    collect(script.step, act, buffers, script.obs(), buffers.lstm_state, torch.zeros(4, 2))
    for bootstrap, last in ((False, -3.0 - 21.0), (True, -3.0 + 0.5 * 131 - 21.0)):
        batch = make_batch(buffers, 0.5, 0.0, bootstrap)  # lambda = 0: the advantage is delta
        assert batch.obs[:, 0, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21]
        deltas = [1 + 5 - 0, -1 + 5.5 - 1, 2 - 10, -2 + 10.5 - 11, 3 + 15 - 20, last]
        assert batch.advantages.flatten().tolist() == deltas
        assert batch.targets.flatten().tolist() == [
            d + v for d, v in zip(deltas, [0, 1, 10, 11, 20, 21], strict=True)
        ]


@pytest.mark.parametrize("game", ["catch", pytest.param("breakout", marks=pytest.mark.slow)])
def test_rollout_threads_equal_one_thread(game: str) -> None:
    whole = env_factory(game)(4, 5)
    parts = [env_factory(game)(2, 5), env_factory(game)(2, 5, first_env=2)]
    num_actions = len(whole.action_names)

    def act(
        obs: torch.Tensor, lstm_state: torch.Tensor, uniforms: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        sums = obs.flatten(1).long().sum(1) + lstm_state[:, 0].long()
        lstm_state = 0.5 * lstm_state + torch.stack([sums % 16, sums % 8], dim=1)
        return (sums + (uniforms * 97).long()) % num_actions, -uniforms, sums / 1e6, lstm_state

    device = torch.device("cpu")
    expected, found = (allocate(40, 4, whole.obs_shape, device, 2) for _ in range(2))
    obs, lstm_state = whole.reset(), expected.lstm_state
    with closing(RolloutThreads(parts, [act, act], found)) as threads:
        for k in range(2):  # the second continues the games of the first
            uniforms = torch.from_numpy(noise(5, k, 41, 4))
            obs, lstm_state, episodes = collect(
                whole.step, act, expected, obs, lstm_state, uniforms
            )
            assert threads.collect(uniforms) == sorted(episodes, key=lambda game: game.env)
            for name, a, b in zip(expected._fields, expected, found, strict=True):
                assert torch.equal(a, b), name
            assert torch.equal(threads.lstm_state, lstm_state)
    for envs in (whole, *parts):
        envs.close()


def test_an_error_in_a_rollout_thread_is_raised_when_all_have_stopped() -> None:
    class Broken(Script):
        def step(self, actions: np.ndarray) -> Step:
            raise RuntimeError("the joystick fell off")

    class Slow(Script):
        def step(self, actions: np.ndarray) -> Step:
            time.sleep(0.05)
            return super().step(actions)

    slow = Slow()
    buffers = allocate(3, 4, SHAPE, torch.device("cpu"))
    with closing(RolloutThreads([Broken(), slow], [act, act], buffers)) as threads:
        with pytest.raises(RuntimeError, match="joystick"):
            threads.collect(torch.zeros(4, 4))
        assert slow.t == 3


@pytest.mark.parametrize("num_envs", [1, 2, 5, 8])
def test_rollout_threads_divide_all_environments(num_envs: int) -> None:
    parts = [range(num_envs)[part] for part in split_envs(num_envs, True, 2)]
    assert [env for part in parts for env in part] == list(range(num_envs))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rollout_threads_do_not_change_the_threads_of_learning() -> None:
    seen = []

    def counting(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(torch.get_num_threads())
        return act(*arguments)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    buffers = allocate(3, 2, SHAPE, torch.device("cpu"))
    with (
        closing(RolloutThreads([Script()], [counting], buffers)) as threads,
        ThreadPoolExecutor(1) as later,
    ):
        threads.collect(torch.zeros(4, 2))
        assert set(seen) == {1}
        assert torch.get_num_threads() == later.submit(torch.get_num_threads).result() == 3
    torch.set_num_threads(before)
