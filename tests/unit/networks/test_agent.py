"""D02, D21, D22: the size, the initial weights and the outputs of the network."""

import math

import pytest
import torch
from conftest import forward_step, relative_error
from torch import Tensor, nn
from torch.nn import functional as F

from ppo37.backends.network import ARRANGED_AT_ONCE, DeviceNetwork, SpaceToDepth, make_network
from ppo37.networks.agent import Agent
from ppo37.networks.policies import CategoricalPolicy

ATARI = (4, 84, 84)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(count: int, shape: tuple[int, ...] = ATARI, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)


def with_biases(agent: Agent) -> Agent:
    """Set biases that are not zero, so that mistakes with biases are noticed."""
    generator = torch.Generator().manual_seed(9)
    for name, parameter in agent.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return agent


def reference(agent: Agent, obs: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Compute the published Nature-CNN in float64. Returns parameters, logits and values."""
    p = {name: w.detach().double().requires_grad_() for name, w in agent.named_parameters()}
    x = obs.double() / 255.0
    for layer, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        x = F.conv2d(x, p[f"trunk.{layer}.weight"], p[f"trunk.{layer}.bias"], stride=stride)
        x = x.clamp(min=0.0)
    x = x.flatten(1) @ p["trunk.dense.weight"].T + p["trunk.dense.bias"]
    x = x.clamp(min=0.0)
    logits = x @ p["policy_head.weight"].T + p["policy_head.bias"]
    values = x @ p["value_head.weight"].T + p["value_head.bias"]
    return p, logits, values[:, 0]


@pytest.mark.parametrize(
    ("obs_shape", "num_actions", "network", "count"),
    [
        # 8224 + 32832 + 36928 convolutions, 1606144 dense, 3078 + 513 heads.
        (ATARI, 6, "nature", 1_687_719),
        (ATARI, 18, "nature", 1_693_875),
        # 4112 + 8224 + 9248 convolutions, 401664 dense, 1542 + 257 heads.
        (ATARI, 6, "nature_half", 425_047),
        # One plane of 36 x 36 leaves 1 x 1 of 64 channels for the dense layer.
        ((1, 36, 36), 3, "nature", 2080 + 32832 + 36928 + 33280 + 1539 + 513),
    ],
)
def test_parameter_count(
    obs_shape: tuple[int, ...], num_actions: int, network: str, count: int
) -> None:
    agent = Agent(obs_shape, CategoricalPolicy(num_actions), network, seed=0)
    assert sum(parameter.numel() for parameter in agent.parameters()) == count
    distribution, values = forward_step(agent, pixels(2, obs_shape))
    assert distribution.logits.shape == (2, num_actions)
    assert values.shape == (2,)


def test_initial_weights_are_orthogonal() -> None:
    """W W^T = gain^2 I for each layer, as a matrix with one row per output; biases are 0."""
    agent = Agent(ATARI, CategoricalPolicy(6), "nature", seed=3)
    gains = {"policy_head": 0.01, "value_head": 1.0}
    layers = {name: m for name, m in agent.named_modules() if hasattr(m, "weight")}
    assert len(layers) == 6
    for name, layer in layers.items():
        gain = gains.get(name, math.sqrt(2.0))
        rows = layer.weight.detach().flatten(1).double() / gain
        identity = torch.eye(len(rows), dtype=torch.float64)
        torch.testing.assert_close(rows @ rows.T, identity, rtol=0.0, atol=1e-5)
        assert layer.bias.eq(0.0).all()


def test_only_the_seed_decides_the_weights() -> None:
    def weights(seed: int, elsewhere: int) -> Tensor:
        torch.manual_seed(elsewhere)
        agent = Agent((1, 36, 36), CategoricalPolicy(3), "nature", seed)
        return torch.cat([parameter.detach().flatten() for parameter in agent.parameters()])

    assert torch.equal(weights(1, 10), weights(1, 11))
    assert not torch.equal(weights(1, 10), weights(2, 10))


@pytest.mark.parametrize("kind", [DeviceNetwork, SpaceToDepth])
@pytest.mark.parametrize(
    ("network", "obs_shape"),
    [("nature", ATARI), ("nature_half", ATARI), ("nature_half", (3, 71, 49))],
    ids=["nature", "nature_half", "sides that leave borders unread"],
)
def test_output_and_gradient_equal_the_published_network(
    kind: type[DeviceNetwork], network: str, obs_shape: tuple[int, ...]
) -> None:
    """They differ only by rounding, although weights are divided by 255 instead of pixels."""
    agent = with_biases(Agent(obs_shape, CategoricalPolicy(6), network, seed=1))
    obs = pixels(8, obs_shape)
    parameters, logits, values = reference(agent, obs)
    device_network = kind(agent)
    distribution, our_values = forward_step(device_network, device_network.arrange(obs))
    assert relative_error(distribution.logits, logits) < 2e-6
    assert relative_error(our_values, values) < 2e-6

    (distribution.logits.sin().sum() + our_values.square().sum()).backward()
    (logits.sin().sum() + values.square().sum()).backward()
    for name, parameter in agent.named_parameters():
        assert parameter.grad is not None
        expected = parameters[name].grad
        assert expected is not None
        assert relative_error(parameter.grad, expected) < 1e-5, name


def test_zero_mean_init_ignores_flat_images_and_changes_nothing_else() -> None:
    plain, other = (
        Agent(ATARI, CategoricalPolicy(6), "nature", seed=3, zero_mean=on) for on in (False, True)
    )
    flat = torch.tensor([87.0, 0.0, 236.0, 142.0]).view(1, 4, 1, 1).expand(1, 4, 84, 84)
    assert other.trunk.conv1(flat).abs().max() < 1e-3 < plain.trunk.conv1(flat).abs().max()

    # Each kernel is twice the orthogonal one minus its mean.
    difference = other.trunk.conv1.weight - 2.0 * plain.trunk.conv1.weight
    assert torch.allclose(difference, difference[:, :, :1, :1].expand_as(difference), atol=1e-6)
    for name, parameter in plain.named_parameters():
        if name != "trunk.conv1.weight":
            assert torch.equal(parameter, other.get_parameter(name)), name


def test_frozen_weights_are_the_current_weights() -> None:
    """Frozen weights give the same outputs, and are updated for the next rollout."""
    agent, obs = Agent(ATARI, CategoricalPolicy(6), "nature_half", seed=1), pixels(8)
    for bf16 in (False, True):
        agent.bf16 = bf16
        device_network = SpaceToDepth(agent)
        for _ in range(2):
            expected, _ = forward_step(device_network, device_network.arrange(obs))
            with device_network.frozen_weights():
                frozen, _ = forward_step(device_network, device_network.arrange(obs))
            assert torch.equal(frozen.logits, expected.logits)
            with torch.no_grad():
                agent.trunk.conv2.weight.mul_(-1.0)


def test_the_device_decides_the_class_of_the_network() -> None:
    agent = Agent((1, 36, 36), CategoricalPolicy(3), "nature", seed=1)
    assert type(make_network(agent)) is SpaceToDepth
    assert type(make_network(agent.to("meta"))) is DeviceNetwork


@pytest.mark.parametrize("kind", [DeviceNetwork, SpaceToDepth])
def test_bf16_is_used_in_the_trunk_only(kind: type[DeviceNetwork]) -> None:
    """Outputs are close to fp32; heads, outputs, parameters and gradients are in fp32."""
    agent = with_biases(Agent(ATARI, CategoricalPolicy(6), "nature", seed=1))
    obs = pixels(8)
    _, logits, values = reference(agent, obs)
    agent.bf16 = True
    device_network = kind(agent)
    distribution, our_values = forward_step(device_network, device_network.arrange(obs))
    assert distribution.logits.dtype == our_values.dtype == torch.float32
    # bf16 has 8 bits: an error of 0.4% per rounding, and four layers add up a few of them.
    for found, expected in ((distribution.logits, logits), (our_values, values)):
        assert 1e-5 < relative_error(found, expected) < 0.02
    # Heads in bf16 would give values of 8 bits only.
    assert (distribution.logits != distribution.logits.bfloat16().float()).any()
    assert (our_values != our_values.bfloat16().float()).any()
    our_values.sum().backward()
    for parameter in agent.trunk.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("kind", [DeviceNetwork, SpaceToDepth])
def test_only_the_agent_chooses_bf16(kind: type[DeviceNetwork]) -> None:
    """autocast around the call is an error, because it would change the heads."""
    agent = Agent((1, 36, 36), CategoricalPolicy(3), "nature", seed=1)
    device_network = kind(agent)
    obs = device_network.arrange(pixels(4, (1, 36, 36)))
    for bf16 in (False, True):
        agent.bf16 = bf16
        distribution, values = forward_step(device_network, obs)
        assert distribution.logits.dtype == values.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(AssertionError, match="bf16"):
            forward_step(device_network, obs)


def test_observations_are_not_changed() -> None:
    agent, obs = Agent((1, 36, 36), CategoricalPolicy(3), "nature", seed=1), pixels(4, (1, 36, 36))
    before = obs.clone()
    forward_step(agent, obs)
    forward_step(make_network(agent), make_network(agent).arrange(obs))
    assert torch.equal(obs, before)


def test_many_observations_are_arranged_like_single_ones() -> None:
    """With more observations than are arranged at a time, and not a multiple of it."""
    device_network = make_network(Agent((2, 84, 84), CategoricalPolicy(3), "nature_half", seed=0))
    obs = torch.randint(0, 256, (ARRANGED_AT_ONCE + 44, 2, 84, 84), dtype=torch.uint8)
    whole = device_network.arrange(obs)
    assert torch.equal(whole, torch.cat([device_network.arrange(one) for one in obs.split(1)]))
