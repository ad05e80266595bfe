"""What a rollout records, step by step, on an environment that plays a script."""

import numpy as np
import pytest
import torch

from ppo37.algorithm.rollout import allocate, collect
from ppo37.algorithm.update import prepare
from ppo37.envs import Episode, Step, env_factory
from ppo37.randomness import noise

SHAPE = (1, 2, 2)


class Script:
    """Two environments; observation = 10 * step + env, so every row tells where it came from."""

    num_envs = 2

    def __init__(self) -> None:
        self.t = 0
        self.actions: list[list[int]] = []

    def obs(self, offset: int = 0) -> np.ndarray:
        values = np.array([10 * self.t + offset, 10 * self.t + offset + 1], np.uint8)
        return np.broadcast_to(values[:, None, None, None], (2, *SHAPE)).copy()

    def send(self, actions: np.ndarray) -> None:
        self.actions.append(actions.tolist())
        self.t += 1

    def recv(self) -> Step:
        dones = np.array([self.t == 2, self.t == 3])
        truncated = np.array([False, self.t == 3])
        episodes = [Episode(1, 7.0, 3)] if self.t == 3 else []
        rewards = np.array([self.t, -self.t], np.float32)
        return Step(self.obs(), rewards, dones, truncated, self.obs(100), episodes)


def act(obs: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Action, log-probability and value that can be traced to the inputs."""
    first = obs.flatten(1)[:, 0].float()
    return (uniforms * 4).long(), -first, first


def test_every_row_is_in_its_place() -> None:
    script = Script()
    buffers = allocate(3, 2, SHAPE, torch.device("cpu"))
    buffers.final_values.fill_(99.0)  # left from the rollout before
    uniforms = torch.tensor([[0.0, 0.3], [0.6, 0.9], [0.3, 0.0], [0.9, 0.9]])
    rollout, (obs,), episodes = collect([script], act, buffers, [script.obs()], uniforms)
    assert rollout.obs[:, :, 0, 0, 0].tolist() == [[0, 1], [10, 11], [20, 21]]
    assert script.actions == rollout.actions.tolist() == [[0, 1], [2, 3], [1, 0]]
    assert rollout.log_probs.tolist() == [[0, -1], [-10, -11], [-20, -21]]
    assert rollout.values.tolist() == [[0, 1], [10, 11], [20, 21], [30, 31]]
    assert rollout.rewards.tolist() == [[1, -1], [2, -2], [3, -3]]
    assert rollout.dones.tolist() == [[0, 0], [1, 0], [0, 1]]
    # Only the truncated environment is valued after its end, at its own last observation.
    assert rollout.final_values.tolist() == [[0, 0], [0, 0], [0, 131]]
    assert obs[:, 0, 0, 0].tolist() == [30, 31]
    assert episodes == [Episode(1, 7.0, 3)]


def test_a_batch_flattens_steps_then_environments() -> None:
    script = Script()
    buffers = allocate(3, 2, SHAPE, torch.device("cpu"))
    rollout, _, _ = collect([script], act, buffers, [script.obs()], torch.zeros(4, 2))
    for bootstrap, last in ((False, -3.0 - 21.0), (True, -3.0 + 0.5 * 131 - 21.0)):
        batch = prepare(rollout, 0.5, 0.0, bootstrap)  # lambda = 0: the advantage is delta
        assert batch.obs[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21]
        deltas = [1 + 5 - 0, -1 + 5.5 - 1, 2 - 10, -2 + 10.5 - 11, 3 + 15 - 20, last]
        assert batch.advantages.tolist() == deltas
        assert batch.targets.tolist() == [
            d + v for d, v in zip(deltas, [0, 1, 10, 11, 20, 21], strict=True)
        ]


@pytest.mark.parametrize("game", ["catch", "breakout"])
def test_two_halves_that_take_turns_are_one_whole(game: str) -> None:
    """Acting on one half while the other is at work changes nothing but the time it takes."""
    whole = env_factory(game)(4, 5)
    halves = [env_factory(game)(2, 5), env_factory(game)(2, 5, first_env=2)]
    num_actions = len(whole.action_names)

    def act(obs: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, ...]:
        looks = obs.flatten(1).long().sum(1)
        return (looks + (uniforms * 97).long()) % num_actions, -uniforms, looks / 1e6

    uniforms = torch.from_numpy(noise(5, 0, 41, 4))
    found = []
    for groups in ([whole], halves):
        buffers = allocate(40, 4, whole.obs_shape, torch.device("cpu"))
        rollout, _, episodes = collect(groups, act, buffers, [e.reset() for e in groups], uniforms)
        found.append((rollout, sorted(episodes)))
    for name, a, b in zip(found[0][0]._fields, found[0][0], found[1][0], strict=True):
        assert torch.equal(a, b), name
    assert found[0][1] == found[1][1]
    for envs in (whole, *halves):
        envs.close()
