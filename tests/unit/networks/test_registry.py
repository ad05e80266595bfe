"""The built-in networks, the observations that they read, and networks of one's own."""

import dataclasses
import hashlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from conftest import forward_step, relative_error, tiny
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical

from ppo37 import Config, networks
from ppo37.backends.network import DeviceNetwork, make_network
from ppo37.backends.precision import choose_precision
from ppo37.backends.self_test import first_screens, noise
from ppo37.build import Brought, make_agent, named
from ppo37.config import from_dict, to_dict
from ppo37.envs import Spaces, Step, VecEnv, spaces_of
from ppo37.errors import UsageError
from ppo37.networks import registry
from ppo37.networks.agent import Agent
from ppo37.networks.policies import CategoricalPolicy, MultiCategoricalPolicy
from ppo37.presets import ZERO_MEAN_NETWORKS, from_preset

ATARI, GRID, VECTOR = (4, 84, 84), (6, 10, 10), (11,)
BUILT_IN = ["impala", "lstm", "minatar", "mlp", "mlp_shared", "nature", "nature_half"]
SPACES = Spaces((1, 36, 36), "uint8", "discrete", ("LEFT", "STAY", "RIGHT"), (3,), (1, 36, 36))
OWN = "test_registry:Own"


class Own(nn.Module):
    """A network of one's own: one dense layer, and an embedding that no layer function knows."""

    features = 8

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dense = nn.Linear(torch.Size(obs_shape).numel(), self.features)
        self.shift = nn.Parameter(torch.randn(self.features))

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.dense(obs.flatten(1) / 255.0) + self.shift)


def observations(agent: Agent, shape: tuple[int, ...], count: int = 5) -> Tensor:
    return noise(shape, count, agent.obs_dtype)


@pytest.mark.parametrize(
    ("name", "shape", "more", "names", "projection"),
    [
        ("nature", ATARI, {}, "a5a1688ba7a8974b", -2.3881),
        ("nature_half", ATARI, {"zero_mean": True}, "9e3540789386a9ec", 18.9626),
        ("lstm", (1, 84, 84), {}, "3d3f02ec98424e5c", -18.5433),
        ("mlp", (128,), {"norm_obs": True, "norm_reward": True}, "6148fc8d70f74949", 7.2975),
        ("mlp_shared", (128,), {}, "60b5b93b3828df5c", 25.3169),
    ],
)
def test_names_and_weights_are_those_before_there_was_a_registry(
    name: str, shape: tuple[int, ...], more: dict[str, Any], names: str, projection: float
) -> None:
    """The values were recorded at commit 112493d; the last bits depend on the processor."""
    state = Agent(shape, CategoricalPolicy(6), name, 3, **more).state_dict()
    found = repr([(key, tuple(value.shape)) for key, value in state.items()])
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == names
    weights = torch.cat([value.double().flatten() for value in state.values()])
    waves = torch.cos(0.1 * torch.arange(len(weights), dtype=torch.float64))
    assert float(weights @ waves) == pytest.approx(projection, abs=1e-3)


def test_names_are_read_from_the_source() -> None:
    assert networks.names() == list(registry.built_in()) == BUILT_IN


def test_settings_and_registry_agree() -> None:
    found = registry.built_in()
    assert {name for name in found if found[name].cells} == {
        name for name in found if Config(network=name).recurrent
    }
    supported = {name for name in found if hasattr(_agent(name).trunk, "zero_mean_init")}
    assert supported == set(ZERO_MEAN_NETWORKS)
    assert not from_preset("fast", "pong", "cpu", network="impala").zero_mean_init
    assert from_preset("fast", "pong", "cpu", network="nature").zero_mean_init


def _agent(name: str) -> Agent:
    return Agent((1, 36, 36), CategoricalPolicy(3), name, seed=0)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((4, 48, 48), BUILT_IN),
        ((1, 36, 40), BUILT_IN),
        ((7, 40, 35), ["impala", "minatar", "mlp", "mlp_shared"]),
        (GRID, ["impala", "minatar", "mlp", "mlp_shared"]),
        ((20, 3, 3), ["impala", "minatar", "mlp", "mlp_shared"]),
        ((1, 1, 2), ["impala", "mlp", "mlp_shared"]),
        (VECTOR, ["lstm", "mlp", "mlp_shared"]),
        ((2, 128), ["lstm", "mlp", "mlp_shared"]),
    ],
)
def test_each_network_reads_what_it_says(shape: tuple[int, ...], names: list[str]) -> None:
    """Bytes and real numbers give the same outputs: x and x / 255 differ by rounding only."""
    assert registry.readers(shape) == names
    for name in BUILT_IN:
        if name not in names:
            with pytest.raises(UsageError, match=", ".join(names)):
                Agent(shape, CategoricalPolicy(3), name, seed=0)
            continue
        agent = Agent(shape, CategoricalPolicy(3), name, seed=0)
        other = Agent(shape, CategoricalPolicy(3), name, seed=0, obs_dtype=torch.float32)
        network, other_network = make_network(agent), make_network(other)
        obs = observations(agent, shape)
        distribution, values = forward_step(network, network.arrange(obs))
        assert distribution.logits.shape == (5, 3)
        assert values.shape == (5,)
        scaled = other_network.arrange(obs / 255.0)
        distribution2, values2 = forward_step(other_network, scaled)
        assert relative_error(distribution2.logits, distribution.logits) < 1e-5
        assert relative_error(values2, values) < 1e-5
        (values2.sum() + distribution2.logits.sin().sum()).backward()
        for key, parameter in other.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


def test_impala_has_the_size_of_the_published_network() -> None:
    """CleanRL's ppo_procgen.py for 64 x 64 pixels in colors and 15 actions, counted by layer."""

    def conv(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + outputs

    groups = ((3, 16), (16, 32), (32, 32))
    convolutions = sum(conv(i, o) + 4 * conv(o, o) for i, o in groups)
    dense = 32 * 8 * 8 * 256 + 256
    heads = (256 + 1) * 15 + 256 + 1
    agent = Agent((3, 64, 64), CategoricalPolicy(15), "impala", seed=0)
    assert sum(p.numel() for p in agent.parameters()) == convolutions + dense + heads == 626_256


def test_impala_computes_the_published_function() -> None:
    """It equals the operations of Espeholt et al. 2018, figure 3, in float64."""
    agent = Agent(ATARI, CategoricalPolicy(4), "impala", seed=1)
    p = {name: w.detach().double() for name, w in agent.trunk.named_parameters()}
    f = nn.functional

    def conv(x: Tensor, name: str) -> Tensor:
        return f.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    obs = observations(agent, ATARI, 3)
    x = obs.double() / 255.0
    for group in range(3):
        x = f.max_pool2d(conv(x, f"groups.{group}.conv"), 3, 2, 1)
        for block in range(2):
            name = f"groups.{group}.blocks.{block}"
            x = x + conv(conv(x.clamp(min=0.0), f"{name}.conv1").clamp(min=0.0), f"{name}.conv2")
    x = f.linear(x.clamp(min=0.0).flatten(1), p["dense.weight"], p["dense.bias"]).clamp(min=0.0)
    assert relative_error(agent.trunk(obs), x) < 2e-6


def test_minatar_has_the_size_of_the_published_network() -> None:
    """Young and Tian 2019: 16 kernels of 3 x 3 on 10 x 10 cells, and 128 units."""
    agent = Agent((4, 10, 10), CategoricalPolicy(6), "minatar", seed=0)
    trunk = (9 * 4 * 16 + 16) + (8 * 8 * 16 * 128 + 128)
    assert sum(p.numel() for p in agent.trunk.parameters()) == trunk


@pytest.mark.parametrize("hidden", [(), (32,), (256, 128, 16)])
@pytest.mark.parametrize(("name", "towers"), [("mlp", 2), ("mlp_shared", 1), ("lstm", 1)])
def test_hidden_sets_the_dense_layers(hidden: tuple[int, ...], name: str, towers: int) -> None:
    agent = Agent(VECTOR, CategoricalPolicy(3), name, seed=0, hidden=hidden)
    sizes = [VECTOR[0], *hidden]
    expected = [[o, i] for i, o in itertools.pairwise(sizes)] * towers
    assert [[*p.shape] for p in agent.trunk.parameters() if p.dim() == 2] == expected
    forward_step(agent, observations(agent, VECTOR))


def test_hidden_is_a_setting() -> None:
    config = tiny(network="mlp", hidden=[256, 128])
    assert config.hidden == (256, 128)
    assert from_dict(to_dict(config)) == config
    for wrong in ((0,), (1.5,), "64", (70_000,)):
        with pytest.raises(UsageError, match=r"^hidden must be"):
            tiny(hidden=wrong)
    with pytest.raises(UsageError, match="nature has no setting hidden; lstm, mlp, mlp_shared"):
        Agent(ATARI, CategoricalPolicy(3), "nature", seed=0, hidden=(32,))


def test_gradients_of_an_lstm_on_vectors_reach_earlier_steps() -> None:
    """The last output of a sequence depends on its first observation, unless an episode ended."""
    agent = Agent(VECTOR, CategoricalPolicy(3), "lstm", seed=0, obs_dtype=torch.float32)
    for done, depends in ((0.0, True), (1.0, False)):
        obs = torch.rand(2 * 4, *VECTOR, requires_grad=True)
        dones = torch.zeros(2, 4)
        dones[:, 1] = done
        _, values, _ = agent(obs, agent.initial_state(2), dones)
        values.unflatten(0, (2, 4))[:, -1].sum().backward()
        assert obs.grad is not None
        assert bool(obs.grad.unflatten(0, (2, 4))[:, 0].any()) == depends


@pytest.mark.parametrize(
    ("network", "shape", "complaint"),
    [
        (
            "natur",
            ATARI,
            r"unknown network 'natur' \(did you mean nature\?\); choose from im",
        ),
        (
            "my:Net",
            ATARI,
            "my:Net is a network of your own: name it again: --network my:Net, or network=",
        ),
        ("nature", VECTOR, "nature reads images of 36 x 36 pixels or more, not vectors of shape"),
        ("nature", GRID, "not images of 10 x 10 pixels; networks that can read them: impala, min"),
        ("mlp", (1, 5000, 10), "too large; 4,096 pixels per side"),
        ("mlp", ((1 << 20) + 1,), "too large; 1,048,576 numbers"),
        (Own(GRID), GRID, "a network must be a class"),
        (Agent, GRID, r"Agent: the constructor with obs_shape \(6, 10, 10\) raised TypeError: "),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    network: Any, shape: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        Agent(shape, CategoricalPolicy(3), network, seed=0)


def test_zero_mean_init_needs_the_first_convolution_of_nature() -> None:
    for name, shape in (("impala", ATARI), ("mlp", ATARI), ("lstm", VECTOR), (Own, ATARI)):
        with pytest.raises(UsageError, match="use --no-zero-mean-init"):
            Agent(shape, CategoricalPolicy(3), name, seed=0, zero_mean=True)


def test_a_network_of_ones_own_is_an_agent_decided_by_the_seed() -> None:
    config = tiny(network=OWN)

    def agent_of(seed: int, elsewhere: int) -> Agent:
        torch.manual_seed(elsewhere)
        chosen = dataclasses.replace(config, seed=seed)
        return make_agent(chosen, SPACES, Own)

    first, again, other = agent_of(1, 5), agent_of(1, 6), agent_of(2, 5)
    assert type(first.trunk) is Own
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert not torch.equal(first.trunk.shift, other.trunk.shift)
    with torch.device("meta"):
        assert make_agent(config, SPACES, Own).trunk.shift.is_meta


class NoFeatures(Own):
    features = None  # type: ignore[assignment]


class WrongFeatures(Own):
    def forward(self, obs: Tensor) -> Tensor:
        return super().forward(obs)[:, :7]


class WrongType(Own):
    def forward(self, obs: Tensor) -> Tensor:
        return super().forward(obs).long()


class OneSample(Own):
    def forward(self, obs: Tensor) -> Tensor:
        return self.dense(obs.flatten())


class Dropout(Own):
    def forward(self, obs: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(obs))


class BatchNorm(Own):
    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__(obs_shape)
        self.norm = nn.BatchNorm1d(self.features)

    def forward(self, obs: Tensor) -> Tensor:
        return self.norm(super().forward(obs))


class Critic(Own):
    separate_critic = True


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (NoFeatures, "the constructor with obs_shape (6, 10, 10) raised TypeError"),
        (WrongFeatures, "must return real numbers of shape [2, 8]"),
        (WrongType, "must return real numbers"),
        (OneSample, "forward of observations [2, 6, 10, 10], torch.uint8, raised RuntimeError"),
        (Dropout, "must compute the same again"),
        (BatchNorm, "must compute the same again"),
        (Critic, "must return real numbers of shape [2, 16]"),
        (nn.Identity, "must be an nn.Module with an attribute `features`"),
    ],
)
def test_classes_that_do_not_fit_get_one_line(network: type[nn.Module], complaint: str) -> None:
    with pytest.raises(UsageError) as raised:
        Agent(GRID, CategoricalPolicy(3), network, seed=0)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("network", "shape", "obs_dtype"),
    [
        ("impala", ATARI, torch.uint8),
        ("minatar", GRID, torch.uint8),
        ("mlp", VECTOR, torch.float32),
        ("nature_half", ATARI, torch.float32),
        (Own, GRID, torch.uint8),
    ],
)
def test_only_nature_on_bytes_has_more_than_pytorch(
    network: Any, shape: tuple[int, ...], obs_dtype: torch.dtype
) -> None:
    agent = Agent(shape, CategoricalPolicy(3), network, seed=0, obs_dtype=obs_dtype)
    assert type(make_network(agent)) is DeviceNetwork
    for asked, found in (
        (("auto", "auto"), ("fp32", "torch")),
        (("auto", "torch"), ("fp32", "torch")),
        (("bf16", "auto"), ("bf16", "torch")),
    ):
        config = tiny(precision=asked[0], kernels=asked[1])
        assert choose_precision(config, agent, shape, 4)[:2] == found
    with pytest.raises(UsageError, match="native kernels are for the convolutions of nature"):
        choose_precision(tiny(kernels="native"), agent, shape, 4)


@pytest.mark.parametrize("network", ["impala", "minatar", "mlp"])
def test_bf16_is_near_fp32_in_every_network(network: str) -> None:
    agent = Agent(GRID, CategoricalPolicy(3), network, seed=0)
    obs = observations(agent, GRID)
    expected, _ = forward_step(agent, obs)
    agent.bf16 = True
    found, _ = forward_step(agent, obs)
    assert 1e-5 < relative_error(found.logits, expected.logits) < 0.03


@pytest.mark.parametrize(
    ("network", "shape", "obs_dtype"),
    [
        ("mlp", VECTOR, torch.float32),
        ("lstm", VECTOR, torch.float32),
        ("minatar", GRID, torch.uint8),
        ("nature_half", (1, 36, 36), torch.uint8),
    ],
)
def test_illegal_actions_have_no_probability_and_no_gradient(
    network: str, shape: tuple[int, ...], obs_dtype: torch.dtype
) -> None:
    """The rest is the distribution over the legal actions alone, by torch.distributions."""
    arguments = (shape, CategoricalPolicy(4), network, 0)
    plain = Agent(*arguments, obs_dtype=obs_dtype)
    agent = Agent(*arguments, obs_dtype=obs_dtype, masked=True)
    for each in (plain, agent):  # the first policy is nearly uniform
        nn.init.orthogonal_(
            each.policy_head.weight, 5.0, generator=torch.Generator().manual_seed(1)
        )
    legal = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]])
    obs = observations(agent, shape, 3)
    both = torch.cat([obs.flatten(1), legal.to(obs_dtype)], dim=1)
    device_network = make_network(agent)
    found, values = forward_step(device_network, device_network.arrange(both))
    unmasked, expected_values = forward_step(plain, obs)
    torch.testing.assert_close(values, expected_values)
    for row, mask in enumerate(legal.bool()):
        allowed = torch.nonzero(mask)[:, 0]
        peer = TorchCategorical(logits=unmasked.logits[row, allowed])
        log_probs = torch.stack([found.log_prob(torch.full((3,), int(a)))[row] for a in allowed])
        torch.testing.assert_close(log_probs, peer.logits)
        torch.testing.assert_close(found.entropy()[row], peer.entropy())
    drawn = torch.stack([found.sample(torch.full((3,), u)) for u in torch.linspace(0, 0.9999, 500)])
    taken = nn.functional.one_hot(drawn, 4).sum(0)
    assert not (taken[legal == 0]).any()
    assert (taken[legal == 1] > 0).all()
    (found.entropy() + found.log_prob(torch.tensor([0, 1, 3])))[:2].sum().backward()
    gradient = agent.policy_head.bias.grad
    assert gradient is not None
    assert gradient[1] == 0.0  # illegal in the first row, certain in the second
    assert gradient[0] != 0.0


class MaskedEnvs(VecEnv):
    """Two environments where one action is legal, another one in each step."""

    num_envs, obs_shape, view_shape = 2, (1 * 4 * 4 + 3,), (1, 4, 4)
    action_names = ("A", "B", "C")

    def reset(self) -> np.ndarray:
        self.time = 0
        return self.observe()

    def observe(self) -> np.ndarray:
        obs = np.zeros((2, *self.obs_shape), np.uint8)
        obs[:, 16 + self.time % 3] = 1
        return obs

    def step(self, actions: np.ndarray) -> Step:
        assert actions.tolist() == [self.time % 3] * 2, "illegal"
        self.time += 1
        nothing = np.zeros(2, bool)
        return Step(self.observe(), np.zeros(2, np.float32), nothing, nothing, self.observe(), [])

    def close(self) -> None:
        pass


def test_the_first_screens_are_played_with_legal_actions() -> None:
    envs = MaskedEnvs()
    agent = make_agent(tiny(network="minatar"), spaces_of(envs))
    assert agent.masked
    screens = first_screens(envs, agent)
    assert screens is not None
    assert screens.shape == (16, 19)
    assert choose_precision(tiny(precision="auto"), agent, envs.obs_shape, 4, screens)[:2] == (
        "fp32",
        "torch",
    )


def test_a_preset_does_not_ask_for_zero_mean_init_in_ones_own_network() -> None:
    config = named(from_preset("fast", "catch", "cpu"), Brought(None, Own))
    assert (config.network, config.zero_mean_init) == (OWN, False)


def test_a_mask_covers_each_part_of_an_action() -> None:
    agent = Agent(VECTOR, MultiCategoricalPolicy((2, 3)), "mlp", 0, masked=True)
    legal = torch.tensor([[1, 0, 0, 1, 0]], dtype=torch.uint8)
    obs = torch.cat([observations(agent, VECTOR, 1), legal], dim=1)
    distribution, _ = forward_step(agent, obs)
    for u in torch.linspace(0, 0.999, 50):
        assert distribution.sample(torch.full((1, 2), float(u))).tolist() == [[0, 1]]
