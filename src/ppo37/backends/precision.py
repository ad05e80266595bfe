"""Choosing precision and kernels of the network's layers: a table by processor, and a self-test.

The table is what was measured once (docs/performance.md), so that the same machine and settings get
the same choice every time, however busy the machine is. The self-test compares numbers, never
speeds; `ppo37 doctor --measure` measures speeds.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

from ..config import Config, Kernels, Precision, describe_layers
from ..envs import VecEnv
from ..envs.checked import Checked
from ..errors import RunError, UsageError
from ..machine import cpu_info
from ..networks.agent import Agent
from ..networks.mlp import MLP
from ..networks.nature import NatureCNN
from .cuda_graphs import Work, cuda_graph
from .network import DeviceNetwork, make_network

TOLERANCES = {"fp32": (1e-5, 0.01), "bf16": (0.03, 0.05)}
"""Largest relative errors (in the 2-norm), forward and of gradients, against PyTorch's fp32 that
count as agreement on noise: bf16 keeps 8 bits, 0.4% a rounding, and a pass through four layers adds
up a few of them; fp32 keeps 24, and sums are in another order. A sum next to 0 may pass ReLU in one
form and not in the other, which among 150 fresh networks changed a gradient by up to 0.4%."""

SCREEN_TOLERANCES = {"fp32": (1e-4, 0.02), "bf16": (0.15, 0.4)}
"""The same on the first screens of a game, where most of an image is flat ground, so that one
rounding can decide for many places at once. Over nine games and five seeds of both presets the
largest errors were 6e-6 and 7e-4 in fp32, 0.04 and 0.21 in bf16."""

KINK_DISTANCE = 0.02
"""Ten times what rounding in bf16 makes of a flat patch."""

SCREEN_STEPS = 8
"""Random steps of every environment that the self-test takes its screens from."""
BUDGET_S = 0.6
FEWEST_PASSES = 5


class Backend(NamedTuple):
    """A way to compute the network."""

    precision: Precision
    kernels: Kernels

    def __str__(self) -> str:
        return describe_layers(*self)


PLAIN = Backend("fp32", "torch")
FP32_FIRST = (Backend("fp32", "native"), PLAIN, Backend("bf16", "native"), Backend("bf16", "torch"))
BF16_FIRST = (Backend("bf16", "native"), Backend("bf16", "torch"), Backend("fp32", "native"), PLAIN)
TORCH_BF16 = (Backend("bf16", "torch"), PLAIN, Backend("bf16", "native"), Backend("fp32", "native"))
TORCH_FP32 = (PLAIN, Backend("bf16", "torch"), Backend("fp32", "native"), Backend("bf16", "native"))

PROCESSORS = {
    "AMD with AVX512-BF16": BF16_FIRST,
    "Intel with AVX512-BF16": FP32_FIRST,
    "x86 with AVX-512": FP32_FIRST,
    "x86 with AVX2": FP32_FIRST,
    "GPU of compute capability 8 or more": TORCH_BF16,
    "GPU of compute capability below 8": TORCH_FP32,
    "processor that the table does not know": TORCH_FP32,
}
"""The forms for each kind of processor, the fastest first. Measured: the first two, AVX2, and an
H200, where bf16 takes half the time. Not measured: AVX-512 without BF16, which gets the choice of
its neighbours, and GPUs without units for bf16, which get fp32."""


class Choice(NamedTuple):
    """A precision and kernels, and why they were chosen."""

    precision: Precision
    kernels: Kernels
    reason: str

    def applied(self, config: Config) -> Config:
        """The configuration with what was chosen."""
        return dataclasses.replace(config, precision=self.precision, kernels=self.kernels)


def processor_kind(device: str) -> str:
    """The key in PROCESSORS of the processor that computes the network."""
    if device == "cuda":
        recent = torch.cuda.get_device_capability() >= (8, 0)
        return f"GPU of compute capability {'8 or more' if recent else 'below 8'}"
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512" and torch.cpu._is_avx512_bf16_supported():
        vendor = cpu_info().get("vendor_id", "")
        maker = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}.get(vendor)
        if maker is not None:
            return f"{maker} with AVX512-BF16"
    names = {"AVX512": "x86 with AVX-512", "AVX2": "x86 with AVX2"}
    return names.get(capability, "processor that the table does not know")


def choose_precision(
    config: Config,
    agent: Agent,
    obs_shape: tuple[int, ...],
    size: int,
    screens: torch.Tensor | None = None,
) -> Choice:
    """Resolve 'auto' of `precision` and `kernels`: the first form of the table that is right here.

    A form is right if what it computes of noise, [size, *obs_shape], and of `screens` [B,
    *obs_shape] agrees with PyTorch's fp32. Leaves `agent.bf16` as it was and no gradients behind.
    UsageError for kernels that cannot be had.
    """
    if isinstance(agent.trunk, MLP) and (config.precision, config.kernels) == ("auto", "auto"):
        return Choice(*PLAIN, "so small a network gains nothing by bf16")
    kind = processor_kind(agent.device.type)
    forms = [
        form
        for form in PROCESSORS[kind]
        if config.precision in ("auto", form.precision) and config.kernels in ("auto", form.kernels)
    ]
    before = agent.bf16
    try:
        return _first_right(agent, forms, kind, obs_shape, size, screens)
    finally:
        agent.bf16 = before
        agent.zero_grad(set_to_none=True)


def _first_right(
    agent: Agent,
    forms: list[Backend],
    kind: str,
    obs_shape: tuple[int, ...],
    size: int,
    screens: torch.Tensor | None,
) -> Choice:
    """The first of `forms` that there is and that is right; UsageError if none is."""
    lacking, wrong = list[str](), list[str]()
    for form in forms:
        try:
            network = network_in(form, agent)
        except UsageError as error:
            lacking.append(str(error))
            continue
        agrees, errors = True, ""
        if form != PLAIN and len(forms) > 1:
            agrees, errors = _self_test(network, form, obs_shape, size, screens)
        if not agrees:
            wrong.append(f"{form} disagrees with fp32: {errors}")
            continue
        why = "as asked" if len(forms) == 1 else f"the table's choice for {kind}"
        tested = [f"self-test: {errors}"] if errors else []
        told = [why, *tested, *wrong, *_of_interest(lacking, form, agent)]
        return Choice(*form, "; ".join(told))
    raise UsageError("; ".join(wrong or dict.fromkeys(lacking)))


def network_in(form: Backend, agent: Agent) -> DeviceNetwork:
    """The network in a form, whose precision the agent has from now on; UsageError if there is
    none."""
    agent.bf16 = form.precision == "bf16"
    return make_network(agent, form.kernels, torch.get_num_threads())


def first_screens(envs: VecEnv, agent: Agent) -> torch.Tensor | None:
    """Observations [SCREEN_STEPS * N, *obs_shape] of a game's first steps with random actions.

    None for an agent that sees no images. The environments must be reset before they are used for
    anything else. UsageError for environments that are not as their contract says, or that cannot
    be saved as they should.
    """
    images = isinstance(agent.trunk, NatureCNN)
    if not images and not isinstance(envs, Checked):
        return None  # ours are known to be right, and some take long to begin
    try:
        envs.reset()
        rows = random_actions(agent, SCREEN_STEPS * envs.num_envs).cpu().split(envs.num_envs)
        screens = [torch.from_numpy(envs.step(row.numpy()).obs.copy()) for row in rows]
        envs.save()
    except RunError as error:
        raise UsageError(str(error)) from None
    return torch.cat(screens) if images else None


def random_actions(agent: Agent, count: int) -> torch.Tensor:
    """Actions [count, *action_shape] of a policy that has no preference, the same every time."""
    policy = agent.policy
    draws = torch.Generator(agent.device).manual_seed(0)
    uniforms = torch.rand(count, *policy.action_shape, generator=draws, device=agent.device)
    actions: torch.Tensor = policy(uniforms.new_zeros(count, policy.num_outputs)).sample(uniforms)
    return actions.detach()


def measure(agent: Agent, obs_shape: tuple[int, ...], size: int) -> dict[Backend, float]:
    """Seconds of a gradient of a minibatch in each form that this machine has."""
    before, networks = agent.bf16, {}
    try:
        for form in PROCESSORS[processor_kind(agent.device.type)]:
            try:
                networks[form] = network_in(form, agent)
            except UsageError:
                continue
        obs = _noise(obs_shape, size)
        return _fastest_s(
            {
                form: partial(_outputs, network, network.arrange(obs), form)
                for form, network in networks.items()
            },
            agent.device.type,
        )
    finally:
        agent.bf16 = before
        agent.zero_grad(set_to_none=True)


def _self_test(
    network: DeviceNetwork,
    form: Backend,
    obs_shape: tuple[int, ...],
    size: int,
    screens: torch.Tensor | None,
) -> tuple[bool, str]:
    """Compare a form with PyTorch's fp32: whether they agree, and the errors in words."""
    plain = make_network(network.agent)
    seen = [("on noise", _noise(obs_shape, size), TOLERANCES)]
    if screens is not None:
        seen.append(("on first screens", screens, SCREEN_TOLERANCES))
    agrees, words = True, list[str]()
    for name, obs, tolerances in seen:
        with _off_the_kink(network.agent):
            expected = _outputs(plain, plain.arrange(obs), PLAIN)
            errors = _errors(_outputs(network, network.arrange(obs), form), expected)
        agrees &= all(e < most for e, most in zip(errors, tolerances[form.precision], strict=True))
        words.append(f"errors {errors[0]:.2g} forward, {errors[1]:.2g} gradient {name}")
    return agrees, ", ".join(words)


@contextmanager
def _off_the_kink(agent: Agent) -> Iterator[None]:
    """Lower the biases of the first convolution while a form is tested.

    With `zero_mean_init` flat ground gives exactly 0, where rounding decides whether ReLU passes a
    gradient: on a screen of Pong the gradients of two right forms differ by a half. That is no
    fault of a form; with this they differ by what they compute.
    """
    trunk = agent.trunk
    bias = trunk.conv1.bias if isinstance(trunk, NatureCNN) else None
    if bias is None:
        yield
        return
    before = bias.detach().clone()
    with torch.no_grad():
        bias.sub_(KINK_DISTANCE)
    try:
        yield
    finally:
        with torch.no_grad():
            bias.copy_(before)


def _of_interest(lacking: list[str], form: Backend, agent: Agent) -> list[str]:
    """Say why there are no native kernels, where they would have been better."""
    wanted = isinstance(agent.trunk, NatureCNN) and agent.device.type == "cpu"
    return list(dict.fromkeys(lacking)) if wanted and form.kernels != "native" else []


def _noise(obs_shape: tuple[int, ...], size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (size, *obs_shape), generator=generator, dtype=torch.uint8)


def _outputs(
    network: DeviceNetwork, obs: torch.Tensor, form: Backend
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network computes and a gradient of it, both as flat vectors."""
    network.agent.bf16 = form.precision == "bf16"
    network.agent.zero_grad(set_to_none=True)
    lstm_state = network.agent.initial_state(len(obs))
    distribution, values, _ = network(obs, lstm_state, lstm_state.new_zeros(len(obs), 1))
    parts = (values, *distribution.outputs)
    torch.stack([part.square().mean() for part in parts]).sum().backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat([part.detach().flatten() for part in parts]), torch.cat(gradients)


def _errors(
    found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]
) -> tuple[float, float]:
    """Relative errors of outputs and of gradients."""
    forward, gradient = (
        float((one - other).norm() / other.norm())
        for one, other in zip(found, expected, strict=True)
    )
    return forward, gradient


def _fastest_s(passes: dict[Backend, Work], device: str) -> dict[Backend, float]:
    """The least time of a forward and backward pass in each form, taken in turn.

    The least, because other work on the machine can only add to it.
    """
    if device == "cuda":  # as they are made in training, which waits for no Python
        passes = {form: cuda_graph(work) for form, work in passes.items()}
    times: dict[Backend, list[float]] = {form: [] for form in passes}
    started = time.perf_counter()
    while time.perf_counter() - started < BUDGET_S or min(map(len, times.values())) < FEWEST_PASSES:
        for form, taken in times.items():
            start = time.perf_counter()
            passes[form]()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return {form: min(taken) for form, taken in times.items()}
