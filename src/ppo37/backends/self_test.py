"""The self-test of a backend: its outputs and gradients must agree with PyTorch's fp32.

It compares numbers, never speeds.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from ..algorithm.distributions import mask_logits
from ..envs import VecEnv
from ..envs.checked import Checked
from ..errors import RunError, UsageError
from ..networks.agent import Agent
from ..networks.nature import NatureCNN
from ..networks.registry import is_image
from .network import DeviceNetwork, make_network

TOLERANCES = {"fp32": (1e-5, 0.01), "bf16": (0.03, 0.05)}
"""Largest relative errors (in the 2-norm) of outputs and gradients on noise. bf16 has 8 bits, an
error of 0.4% per rounding, and four layers add up a few of them; fp32 has 24 bits, and sums in
another order. A sum near 0 may pass ReLU in one backend and not in the other, which among 150 new
networks changed a gradient by up to 0.4%."""

SCREEN_TOLERANCES = {"fp32": (1e-4, 0.02), "bf16": (0.15, 0.4)}
"""The same on the first screens of a game, where most of an image is flat, so that one rounding
can change many pixels at once. Over nine games and five seeds of both presets the largest errors
were 6e-6 and 7e-4 in fp32, 0.04 and 0.21 in bf16."""

BIAS_OFFSET = 0.02
"""Ten times the error of rounding a flat patch in bf16."""
SCREEN_STEPS = 8
"""Random steps of every environment, whose screens the self-test uses."""


def self_test(
    network: DeviceNetwork,
    precision: str,
    obs_shape: tuple[int, ...],
    size: int,
    screens: torch.Tensor | None,
) -> tuple[bool, str]:
    """Compare a network in a precision with PyTorch's fp32. Returns whether they agree, and how.

    It uses `size` observations of noise and `screens` [B, *obs_shape].
    """
    plain = make_network(network.agent)
    inputs = [("on noise", noise(obs_shape, size, network.agent.obs_dtype), TOLERANCES)]
    if screens is not None:
        inputs.append(("on first screens", screens, SCREEN_TOLERANCES))
    agrees, texts = True, list[str]()
    for name, obs, tolerances in inputs:
        with _lower_first_biases(network.agent):
            expected = outputs_and_gradients(plain, plain.arrange(obs), "fp32")
            found = outputs_and_gradients(network, network.arrange(obs), precision)
        errors = relative_errors(found, expected)
        agrees &= all(e < most for e, most in zip(errors, tolerances[precision], strict=True))
        texts.append(f"{errors[0]:.2g} in outputs and {errors[1]:.2g} in gradients {name}")
    return agrees, f"relative errors {', '.join(texts)}"


def outputs_and_gradients(
    network: DeviceNetwork, arranged: torch.Tensor, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the outputs of a network for `arranged` [B, ...], and gradients, as flat vectors.

    Leaves the agent in this precision, with these gradients.
    """
    network.agent.bf16 = precision == "bf16"
    network.agent.zero_grad(set_to_none=True)
    lstm_state = network.agent.initial_state(len(arranged))
    dones = lstm_state.new_zeros(len(arranged), 1)
    distribution, values, _ = network(arranged, lstm_state, dones)
    parts = (values, *distribution.outputs)
    torch.stack([part.square().mean() for part in parts]).sum().backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat([part.detach().flatten() for part in parts]), torch.cat(gradients)


def relative_errors(found: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> list[float]:
    """Return the relative error of each vector, in the 2-norm."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


def noise(
    obs_shape: tuple[int, ...], size: int, obs_dtype: torch.dtype = torch.uint8
) -> torch.Tensor:
    """Return `size` random observations, the same every time: bytes, or numbers from 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    if obs_dtype != torch.uint8:
        return torch.rand(size, *obs_shape, generator=generator, dtype=obs_dtype)
    return torch.randint(0, 256, (size, *obs_shape), generator=generator, dtype=torch.uint8)


def first_screens(envs: VecEnv, agent: Agent) -> torch.Tensor | None:
    """Return observations [SCREEN_STEPS * N, *obs_shape] of a game's first, random steps.

    None for an agent that does not read images. The environments must be reset before they are used
    again. UsageError for environments that break their contract or cannot be saved.
    """
    images = is_image(agent.obs_shape)
    if not images and not isinstance(envs, Checked):
        return None  # the environments of ppo37 need no check, and some take long to start
    try:
        obs, screens = torch.tensor(envs.reset()), list[torch.Tensor]()
        for uniforms in _uniforms(agent, SCREEN_STEPS * envs.num_envs).split(envs.num_envs):
            actions = _uniform_actions(agent, uniforms, obs).cpu().numpy()
            obs = torch.tensor(envs.step(actions).obs)
            screens.append(obs)
        envs.save()
    except RunError as error:
        raise UsageError(str(error)) from None
    return torch.cat(screens) if images else None


def random_actions(agent: Agent, count: int) -> torch.Tensor:
    """Sample actions [count, *action_shape] of a uniform policy, the same every time."""
    return _uniform_actions(agent, _uniforms(agent, count))


def _uniforms(agent: Agent, count: int) -> torch.Tensor:
    """Draw the numbers [count, *action_shape] that actions are sampled by."""
    draws = torch.Generator(agent.device).manual_seed(0)
    shape = (count, *agent.policy.action_shape)
    return torch.rand(shape, generator=draws, device=agent.device)


def _uniform_actions(
    agent: Agent, uniforms: torch.Tensor, obs: torch.Tensor | None = None
) -> torch.Tensor:
    """Sample actions of a uniform policy. obs: those whose masks of legal actions are kept."""
    logits = uniforms.new_zeros(len(uniforms), agent.policy.num_outputs)
    if agent.masked and obs is not None:
        logits = mask_logits(logits, agent.split_mask(obs.to(agent.device))[1])
    actions: torch.Tensor = agent.policy(logits).sample(uniforms)
    return actions.detach()


@contextmanager
def _lower_first_biases(agent: Agent) -> Iterator[None]:
    """Lower the biases of the first convolution inside this block.

    With `zero_mean_init` a flat part of an image gives exactly 0, where rounding decides whether
    ReLU passes a gradient: on a screen of Pong the gradients of two correct backends differ by a
    half. With lower biases, they differ only by errors of the computation.
    """
    trunk = agent.trunk
    bias = trunk.conv1.bias if isinstance(trunk, NatureCNN) else None
    if bias is None:
        yield
        return
    before = bias.detach().clone()
    with torch.no_grad():
        bias.sub_(BIAS_OFFSET)
    try:
        yield
    finally:
        with torch.no_grad():
            bias.copy_(before)
