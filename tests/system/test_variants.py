"""Other action spaces and observations: rollouts, updates, checkpoints and evaluations."""

import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import log_without_times, same_tensors, tiny
from torch import nn

from ppo37 import Config, evaluate, load_agent, resume, train
from ppo37.algorithm.update import make_batch
from ppo37.backends.executables import make_act, make_buffers
from ppo37.backends.network import make_network
from ppo37.backends.threads import RolloutThreads, split_envs
from ppo37.build import make_agent, make_factory, normalized
from ppo37.envs import Spaces, spaces_of
from ppo37.envs.atari import Atari
from ppo37.errors import UsageError
from ppo37.networks.agent import Agent
from ppo37.networks.policies import CategoricalPolicy
from ppo37.presets import from_preset
from ppo37.randomness import noise
from ppo37.session import checkpoint
from ppo37.tools.record import record

RAM = {"observation": "ram", "network": "mlp", "norm_obs": True, "norm_reward": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "joystick": {"action_space": "joystick", "mask_actions": True},
    "continuous": {"action_space": "continuous"},
    "continuous lstm": {"action_space": "continuous", "network": "lstm"},
    "ram": RAM,
    "continuous ram": {**RAM, "action_space": "continuous", "network": "mlp_shared"},
    "scaled rewards": {"norm_reward": True},
}
QUICK = ("joystick", "continuous lstm", "ram")
variants = pytest.mark.parametrize(
    "variant",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
)


def config_of(variant: str, **changes: Any) -> Config:
    """Return the settings of six updates of Breakout, long enough for games to end."""
    long = {"threads": 2, "num_steps": 48, "total_timesteps": 6 * 4 * 48}
    return tiny(game="breakout", **{**long, **VARIANTS[variant], **changes})


@variants
def test_the_update_computes_the_same_outputs_as_the_rollout(variant: str) -> None:
    """Compute log-probabilities and values of a second rollout again, from its buffers."""
    config = config_of(variant)
    factory = make_factory(config, 1)
    slices = split_envs(config.num_envs, config.divisible, 2)
    parts = [factory(part.stop - part.start, 5, first_env=part.start) for part in slices]
    agent = make_agent(config, spaces_of(parts[0]))
    nn.init.orthogonal_(agent.policy_head.weight, 3.0)
    network = make_network(agent)
    envs = [normalized(part, agent, config) for part in parts]
    buffers = make_buffers(agent, 48, 4, parts[0].obs_shape)
    with closing(RolloutThreads(envs, [make_act(network)] * len(envs), buffers)) as threads:
        for k in range(2):
            uniforms = noise(5, k, 49, 4, shape=agent.policy.action_shape)
            threads.collect(torch.from_numpy(uniforms))
    for part in parts:
        part.close()
    batch = make_batch(buffers, 0.99, 0.95, False, length=config.sequence_length)
    with torch.no_grad():
        obs = network.arrange(batch.obs.flatten(0, 1))
        distribution, values, _ = network(obs, batch.lstm_state, batch.dones)
        ratio = distribution.log_prob(batch.actions.flatten(0, 1)) - batch.log_probs.flatten()
    assert ratio.abs().max() < 1e-4
    torch.testing.assert_close(values, batch.values.flatten(), rtol=0, atol=1e-4)
    if config.action_space == "continuous":
        assert batch.actions.abs().max() > 1.5  # not clipped (D27)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["joystick", "continuous lstm", "continuous ram"])
def test_a_run_is_resumed_bit_for_bit(variant: str, tmp_path: Path) -> None:
    config = config_of(variant, reseed_interval=90)
    train(config, tmp_path / "whole", checkpoint_every=3)
    shutil.copytree(tmp_path / "whole", tmp_path / "other")
    for name in ("summary.json", "checkpoints/00000006"):
        path = tmp_path / "other" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    resume(tmp_path / "other", checkpoint_every=3)
    ends = [
        checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in ("whole", "other")
    ]
    assert ends[0].state["update"] == ends[1].state["update"] == 6
    assert checkpoint.fingerprint(ends[0]) == checkpoint.fingerprint(ends[1])
    assert log_without_times(tmp_path / "whole") == log_without_times(tmp_path / "other")


def test_an_evaluation_does_not_change_running_statistics(tmp_path: Path, monkeypatch: Any) -> None:
    train(config_of("ram", total_timesteps=2 * 4 * 48), tmp_path / "run")
    trained = load_agent(tmp_path / "run")
    module = sys.modules["ppo37.tools.evaluate"]
    monkeypatch.setattr(module, "load_agent", lambda *_: trained)
    before = {name: part.clone() for name, part in trained.agent.state_dict().items()}
    module.evaluate(tmp_path / "run", episodes=1)
    assert same_tensors(before, trained.agent.state_dict())


@pytest.mark.slow  # for the plain agent: tests/unit/tools/test_record.py
@pytest.mark.parametrize("variant", ["joystick", "ram"])
def test_the_video_shows_the_evaluated_game(variant: str, tmp_path: Path) -> None:
    train(config_of(variant, total_timesteps=2 * 4 * 48), tmp_path / "run")
    made = record(tmp_path / "run", tmp_path / "video.mp4", seed=2)
    played = evaluate(tmp_path / "run", episodes=1, seed=2)
    assert (made.score, made.length) == (played.scores[0], played.lengths[0])


def test_running_statistics_stay_on_the_cpu() -> None:
    """The environments update them there. `meta` stands for a GPU."""
    agent = make_agent(
        config_of("ram"), Spaces((1, 128), "uint8", "discrete", ("NOOP", "FIRE"), (2,), (1, 128))
    ).to("meta")
    assert agent.obs_statistics is not None
    assert agent.obs_statistics.get_buffer("mean").device.type == "cpu"
    assert agent.value_head.weight.is_meta


def test_a_masked_agent_takes_only_actions_of_its_game() -> None:
    """Breakout ignores up and down: the second choice is always the middle (A4)."""
    config = config_of("joystick")
    with closing(make_factory(config, 1)(4, 5)) as envs:
        agent = make_agent(config, spaces_of(envs))
        buffers = make_buffers(agent, 48, 4, envs.obs_shape)
        with closing(RolloutThreads([envs], [make_act(make_network(agent))], buffers)) as threads:
            threads.collect(torch.from_numpy(noise(5, 0, 49, 4, shape=(3,))))
    drawn = [set(buffers.actions[..., part].flatten().tolist()) for part in range(3)]
    assert drawn == [{0, 1, 2}, {1}, {0, 1}]


def test_the_settings_of_normalization_reach_the_environments() -> None:
    config = config_of("ram", clip_obs=0.5, clip_reward=1e-3, gamma=0.5)
    with closing(make_factory(config, 1)(4, 5)) as raw:
        agent = make_agent(config, spaces_of(raw))
        assert agent.return_statistics is not None
        envs = normalized(raw, agent, config)
        obs, rewards = [envs.reset()], []
        rng = np.random.default_rng(0)
        for _ in range(120):
            step = envs.step(rng.integers(4, size=4))
            obs.append(step.obs)
            rewards.append(step.rewards)
        assert np.abs(obs).max() == 0.5
        assert np.abs(rewards).max() == np.float32(1e-3)
        # Sums at this gamma are about twice the rewards; at 0.99 they would be many times.
        mean = float(agent.return_statistics.values.mean)
    rate = np.count_nonzero(rewards) / np.size(rewards)
    assert rate < mean < 2.5 * rate


def test_running_statistics_are_saved_with_the_agent(tmp_path: Path) -> None:
    config = config_of("ram")
    train(config, tmp_path / "run")
    agent = load_agent(tmp_path / "run").agent
    assert agent.obs_statistics is not None
    assert agent.return_statistics is not None
    # Every step, and the first observation of each environment.
    steps = config.agent_steps
    assert float(agent.obs_statistics.values.number) == pytest.approx(
        steps + config.num_envs, rel=1e-6
    )
    assert float(agent.return_statistics.values.number) == pytest.approx(steps, rel=1e-6)
    assert agent.obs_statistics.values.mean.shape == (1, 128)


@pytest.mark.parametrize(("network", "separate"), [("mlp", True), ("mlp_shared", False)])
def test_policy_and_value_have_separate_or_shared_layers(network: str, separate: bool) -> None:
    """D13, D26: with separate layers, the value loss does not train the policy, and vice versa."""
    agent = Agent((1, 128), CategoricalPolicy(6), network, seed=1)
    nn.init.orthogonal_(agent.policy_head.weight, 1.0)
    assert agent.trunk.features == 64
    obs = torch.randint(0, 256, (9, 1, 128), dtype=torch.uint8)
    lstm_state = agent.initial_state(9)
    distribution, values, _ = agent(obs, lstm_state, lstm_state.new_zeros(9, 1))
    mlps = [list(mlp.parameters()) for mlp in agent.trunk.layers]
    assert len(mlps) == 1 + separate
    for loss, own in ((values.square().sum(), -1), (distribution.outputs[0].square().sum(), 0)):
        agent.zero_grad()
        loss.backward(retain_graph=True)
        for k, mlp in enumerate(mlps):
            trained = mlp is mlps[own]
            assert all((p.grad is not None and bool(p.grad.any())) == trained for p in mlp), k
    # The textbook form: two tanh layers of 64.
    x = obs.flatten(1) / 255.0
    for layer in agent.trunk.layers[0]:
        x = torch.tanh(x @ layer.weight.T + layer.bias)
    expected = x @ agent.policy_head.weight.T + agent.policy_head.bias
    torch.testing.assert_close(distribution.outputs[0], expected)


def test_ram_observations_are_the_ram_of_the_console() -> None:
    """All 128 bytes are equal, and the paddle of Pong is where the joystick moved it."""
    envs = Atari("pong", 1, 3, "machado", observation="ram", num_frames=1)
    seen = [envs.reset()[0, 0]]
    game = envs._engine._games[0]
    for action in np.random.default_rng(0).integers(18, size=40):
        seen.append(envs.step(np.array([action])).obs[0, 0])
        np.testing.assert_array_equal(seen[-1], game._ale.getRAM())
    assert len({bytes(ram) for ram in seen}) > 30
    # Byte 51 of Pong is the player's height on the screen (Anand et al. 2019).
    heights = {}
    for name, action in (("up", 3), ("down", 4)):  # RIGHT and LEFT
        envs.reset()
        for _ in range(25):
            obs = envs.step(np.array([action])).obs
        heights[name] = int(obs[0, 0, 51])
    assert heights["up"] + 30 < heights["down"], heights
    envs.close()


@pytest.mark.slow
def test_ram_and_pixel_observations_are_of_the_same_games() -> None:
    """The engines in Python and C++ play the same games, with reseeding."""
    kinds = [{"observation": "ram", "num_frames": 2}, {"num_threads": 1}]
    ram, pixels = (Atari("breakout", 2, 3, reseed_interval=60, **kind) for kind in kinds)
    assert ram.reset().shape == (2, 2, 128)
    pixels.reset()
    rng = np.random.default_rng(0)
    games = 0
    last = None
    for _ in range(250):
        actions = rng.integers(4, size=2)
        ours, theirs = ram.step(actions), pixels.step(actions)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)
        np.testing.assert_array_equal(ours.dones, theirs.dones)
        assert ours.episodes == theirs.episodes
        games += len(ours.episodes)
        if last is not None and not ours.dones.any():
            np.testing.assert_array_equal(ours.obs[:, 0], last[:, 1])  # the step before
        last = ours.obs
    assert games >= 2
    ram.close()
    pixels.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_obs": True}, "pixels are divided by 255"),
        ({"action_space": "continuous", "mask_actions": True}, "not for real numbers"),
        ({**RAM, "zero_mean_init": True}, "zero_mean_init is for observation pixels"),
        ({"clip_obs": 0.0}, "clip_obs must be more than 0"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(game="breakout", **changes)


@pytest.mark.parametrize("changes", [{"action_space": "joystick"}, RAM])
def test_catch_needs_discrete_actions_and_pixels(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="catch needs action_space discrete"):
        train(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_presets_adapt_to_observations_and_networks() -> None:
    ram = from_preset("fast", "pong", "cpu", observation="ram")
    assert (ram.network, ram.norm_obs, ram.norm_reward, ram.num_frames) == ("mlp", True, True, 1)
    assert from_preset("classic", "pong", "cpu", action_space="continuous").ent_coef == 0
    chosen = from_preset("classic", "pong", "cpu", action_space="continuous", ent_coef=0.1)
    assert chosen.ent_coef == 0.1
    assert from_preset("fast", "pong", "cpu", network="lstm").num_minibatches == 8
    assert from_preset("classic", "pong", "cpu", network="lstm").num_minibatches == 4
