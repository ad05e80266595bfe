"""Choosing precision and kernels of the network's layers by a self-test on this machine."""

import dataclasses
import time
from functools import partial
from itertools import product
from typing import NamedTuple

import torch

from ..config import Config, layers_in_words
from ..errors import UsageError
from ..model import MLP, Agent, NatureCNN
from .graphs import Work, cuda_graph
from .network import Network, place

TOLERANCES = {"fp32": (1e-5, 0.01), "bf16": (0.03, 0.05)}
"""Largest relative errors (in the 2-norm), forward and of gradients, against PyTorch's fp32 that
count as agreement: bf16 keeps 8 bits, 0.4% a rounding, and a pass through four layers adds up a
few of them; fp32 keeps 24, and sums are in another order. A sum next to 0 may pass ReLU in one
form and not in the other, which among 150 fresh networks changed a gradient by up to 0.4%."""


BUDGET_S = 0.6
FEWEST_PASSES = 5


class Form(NamedTuple):
    """A way to compute the network."""

    precision: str
    kernels: str

    def __str__(self) -> str:
        return layers_in_words(*self)


FORMS = tuple(Form(*both) for both in product(("fp32", "bf16"), ("torch", "native")))
"""The plainest first."""


class Choice(NamedTuple):
    """A precision and kernels, and why they were chosen."""

    precision: str
    kernels: str
    reason: str

    def applied(self, config: Config) -> Config:
        """The configuration with what was chosen."""
        return dataclasses.replace(config, precision=self.precision, kernels=self.kernels)


def choose_precision(config: Config, agent: Agent, obs_shape: tuple[int, ...], size: int) -> Choice:
    """Resolve 'auto' of `precision` and `kernels`: what is fastest for minibatches of `size`.

    bf16 is chosen only where it agrees with fp32. Leaves `agent.bf16` as it was and no gradients
    behind.  UsageError for kernels that cannot be had.
    """
    if isinstance(agent.trunk, MLP) and (config.precision, config.kernels) == ("auto", "auto"):
        return Choice("fp32", "torch", "so small a network gains nothing by bf16")
    forms = [form for form in FORMS
             if config.precision in ("auto", form.precision)
             and config.kernels in ("auto", form.kernels)]  # fmt: skip
    before = agent.bf16
    try:
        networks, lacking = _networks(agent, forms)
        if len(networks) == 1:
            free = "auto" in (config.precision, config.kernels)
            reason = "nothing else here" if free else "as asked"
            return Choice(*next(iter(networks)), reason + lacking)
        generator = torch.Generator().manual_seed(0)
        obs = torch.randint(0, 256, (size, *obs_shape), generator=generator, dtype=torch.uint8)
        passes: dict[Form, Work] = {
            form: partial(_outputs, network, network.arrange(obs), form)
            for form, network in networks.items()
        }
        found = {form: work() for form, work in passes.items()}
        plain = place(agent)
        exact = found.get(FORMS[0]) or _outputs(plain, plain.arrange(obs), FORMS[0])
        errors = {form: _errors(outputs, exact) for form, outputs in found.items()}
        seconds = _fastest_s(passes, agent.device.type)
    finally:
        agent.bf16 = before
        agent.zero_grad(set_to_none=True)
    best, reason = judged(seconds, errors)
    return Choice(*best, reason + lacking)


def _networks(agent: Agent, forms: list[Form]) -> tuple[dict[Form, Network], str]:
    """The network in each form that there is, and what to say if native kernels are lacking."""
    networks: dict[Form, Network] = {}
    errors: list[UsageError] = []
    for form in forms:
        agent.bf16 = form.precision == "bf16"
        try:
            networks[form] = place(agent, form.kernels)
        except UsageError as error:
            errors.append(error)
    if not networks:
        raise errors[0]
    native = any(form.kernels == "native" for form in networks)
    if native or not isinstance(agent.trunk, NatureCNN) or agent.device.type != "cpu":
        return networks, ""
    return networks, "".join(f"; {text}" for text in dict.fromkeys(map(str, errors)))


def judged(seconds: dict[Form, float], errors: dict[Form, tuple[float, float]]) -> tuple[Form, str]:
    """The fastest of the first form and those that agree with fp32, and why."""
    first, *others = seconds
    agreeing = [
        form
        for form in others
        if all(error < most
               for error, most in zip(errors[form], TOLERANCES[form.precision], strict=True))
    ]  # fmt: skip
    other = min(agreeing or others, key=lambda form: seconds[form])
    found = "errors {:.2g} forward, {:.2g} gradient".format(*errors[other])
    if not agreeing:
        return first, f"{other} disagrees with fp32: {found}"
    ratio = seconds[first] / seconds[other]
    if ratio <= 1.0:
        return first, f"{other} runs at {ratio:.2f} times the speed of {first} here"
    return other, f"self-test: {ratio:.2f} times the speed of {first}, {found}"


def _outputs(network: Network, obs: torch.Tensor, form: Form) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network computes and a gradient of it, both as flat vectors."""
    network.agent.bf16 = form.precision == "bf16"
    network.agent.zero_grad(set_to_none=True)
    memory = network.agent.empty_memory(len(obs))
    distribution, values, _ = network(obs, memory, memory.new_zeros(len(obs), 1))
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


def _fastest_s(passes: dict[Form, Work], device: str) -> dict[Form, float]:
    """The least time of a forward and backward pass in each form, taken in turn.

    The least, because other work on the machine can only add to it.
    """
    if device == "cuda":  # as they are made in training, which waits for no Python
        passes = {form: cuda_graph(work) for form, work in passes.items()}
    times: dict[Form, list[float]] = {form: [] for form in passes}
    started = time.perf_counter()
    while time.perf_counter() - started < BUDGET_S or min(map(len, times.values())) < FEWEST_PASSES:
        for form, taken in times.items():
            start = time.perf_counter()
            passes[form]()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return {form: min(taken) for form, taken in times.items()}
