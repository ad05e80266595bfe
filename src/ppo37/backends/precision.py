"""Choose the precision and the kernels of the network: from a table, after a self-test.

The table of processors has the results of measurements (docs/performance.md), so that the same
machine and settings always get the same choice, however busy the machine is. `self_test.py` rejects
a backend that computes wrong numbers. `ppo37 doctor --measure` measures speeds.
"""

import dataclasses
import time
from functools import partial
from typing import NamedTuple

import torch

from ..config import Config, Kernels, Precision, describe_layers
from ..errors import UsageError
from ..machine import cpu_info
from ..networks.agent import Agent
from .cuda_graphs import Work, cuda_graph
from .network import DeviceNetwork, is_nature, make_network
from .self_test import noise, outputs_and_gradients, self_test

MEASURE_S = 0.6
MIN_PASSES = 5


class Backend(NamedTuple):
    """A way to compute the network."""

    precision: Precision
    kernels: Kernels

    def __str__(self) -> str:
        return describe_layers(*self)


PLAIN, NATIVE = Backend("fp32", "torch"), Backend("fp32", "native")
PLAIN_BF16, NATIVE_BF16 = Backend("bf16", "torch"), Backend("bf16", "native")
FP32_FIRST = (NATIVE, PLAIN, NATIVE_BF16, PLAIN_BF16)
BF16_FIRST = (NATIVE_BF16, PLAIN_BF16, NATIVE, PLAIN)
TORCH_BF16 = (PLAIN_BF16, PLAIN, NATIVE_BF16, NATIVE)
TORCH_FP32 = (PLAIN, PLAIN_BF16, NATIVE, NATIVE_BF16)

PROCESSORS = {
    "AMD with AVX512-BF16": BF16_FIRST,
    "Intel with AVX512-BF16": FP32_FIRST,
    "x86 with AVX-512": FP32_FIRST,
    "x86 with AVX2": FP32_FIRST,
    "GPU of compute capability 8 or more": TORCH_BF16,
    "GPU of compute capability below 8": TORCH_FP32,
    "processor that the table does not know": TORCH_FP32,
}
"""The backends for each kind of processor, the fastest first. Measured: the first two, AVX2, and an
H200, where bf16 takes half the time. Not measured: AVX-512 without BF16, which gets the choice of
its neighbors, and GPUs without units for bf16, which get fp32."""


class Choice(NamedTuple):
    """A precision and kernels, and the reason for the choice."""

    precision: Precision
    kernels: Kernels
    reason: str

    def applied(self, config: Config) -> Config:
        """Return the configuration with this precision and these kernels."""
        return dataclasses.replace(config, precision=self.precision, kernels=self.kernels)


def processor_kind(device: str) -> str:
    """Return the key in PROCESSORS of the processor that computes the network."""
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
    """Resolve 'auto' of `precision` and `kernels`: the fastest backend that passes the self-test.

    The self-test uses noise [size, *obs_shape] and `screens` [B, *obs_shape]. Leaves `agent.bf16`
    as it was, and no gradients. UsageError for kernels that are not available.
    """
    kind = processor_kind(agent.device.type)
    known = PROCESSORS[kind] if is_nature(agent) else TORCH_FP32
    backends = [
        backend
        for backend in known
        if config.precision in ("auto", backend.precision)
        and config.kernels in ("auto", backend.kernels)
    ]
    asked = (config.precision, config.kernels) != ("auto", "auto")
    reason = "as asked" if asked else f"the table's choice for {kind}"
    if not is_nature(agent):
        backends = backends[:1]
        reason = "as asked" if asked else "bf16 is only measured for nature on uint8 images"
    before = agent.bf16
    try:
        return _fastest_that_agrees(agent, backends, reason, obs_shape, size, screens)
    finally:
        agent.bf16 = before
        agent.zero_grad(set_to_none=True)


def _fastest_that_agrees(
    agent: Agent,
    backends: list[Backend],
    reason: str,
    obs_shape: tuple[int, ...],
    size: int,
    screens: torch.Tensor | None,
) -> Choice:
    """Choose the first available backend that agrees with fp32; UsageError if there is none."""
    missing, wrong = list[str](), list[str]()
    for backend in backends:
        try:
            network = network_in(backend, agent)
        except UsageError as error:
            missing.append(str(error))
            continue
        agrees, errors = True, ""
        if backend != PLAIN and len(backends) > 1:
            agrees, errors = self_test(network, backend.precision, obs_shape, size, screens)
        if not agrees:
            wrong.append(f"{backend} disagrees with fp32: {errors}")
            continue
        reasons = [reason, "self-test passed"] if errors else [reason]
        if is_nature(agent) and agent.device.type == "cpu" and backend.kernels != "native":
            wrong += dict.fromkeys(missing)  # native kernels would have been faster
        return Choice(*backend, "; ".join(reasons + wrong))
    raise UsageError("; ".join(wrong or dict.fromkeys(missing)))


def network_in(backend: Backend, agent: Agent) -> DeviceNetwork:
    """Make the network in a backend, and set the agent's precision; UsageError if it has none."""
    agent.bf16 = backend.precision == "bf16"
    return make_network(agent, backend.kernels, torch.get_num_threads())


def measure(agent: Agent, obs_shape: tuple[int, ...], size: int) -> dict[Backend, float]:
    """Measure the seconds of a gradient of a minibatch in each available backend."""
    before, passes = agent.bf16, dict[Backend, Work]()
    obs = noise(obs_shape, size, agent.obs_dtype)
    try:
        for backend in PROCESSORS[processor_kind(agent.device.type)]:
            try:
                network = network_in(backend, agent)
            except UsageError:
                continue
            arranged, precision = network.arrange(obs), backend.precision
            passes[backend] = partial(outputs_and_gradients, network, arranged, precision)
        return _fastest_s(passes, agent.device.type)
    finally:
        agent.bf16 = before
        agent.zero_grad(set_to_none=True)


def _fastest_s(passes: dict[Backend, Work], device: str) -> dict[Backend, float]:
    """Measure the shortest time of each backend's pass, in turn.

    The shortest, because other work on the machine can only make it longer.
    """
    if device == "cuda":  # as in training, which does not wait for Python
        passes = {backend: cuda_graph(work) for backend, work in passes.items()}
    times: dict[Backend, list[float]] = {backend: [] for backend in passes}
    started = time.perf_counter()
    while time.perf_counter() - started < MEASURE_S or min(map(len, times.values())) < MIN_PASSES:
        for backend, taken in times.items():
            start = time.perf_counter()
            passes[backend]()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return {backend: min(taken) for backend, taken in times.items()}
