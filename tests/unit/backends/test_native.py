"""The native kernels beside PyTorch: equal, where every number in between is exact.

With small whole numbers for weights and gradients all sums are exact in fp32, in whatever order,
and what is rounded to bf16 is the same number here and there. All that the processor can compute
with is tested: AVX-512 with and without bf16, and AVX2, which a processor with AVX-512 has too.
"""

import ctypes
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import forward_step, log_without_times, relative_error, tiny
from torch import Tensor
from torch.nn import functional as F

import ppo37
from ppo37 import from_preset, resume, train
from ppo37.backends import precision
from ppo37.backends.native.kernels import (
    STEPS,
    Trunk,
    _kernels,
    features,
    kernels_for,
    layers,
    weights_of,
)
from ppo37.backends.native.network import Native
from ppo37.backends.network import DeviceNetwork, SpaceToDepth, make_network
from ppo37.backends.precision import (
    PROCESSORS,
    Backend,
    choose_precision,
    processor_kind,
)
from ppo37.backends.self_test import (
    TOLERANCES,
    first_screens,
    outputs_and_gradients,
    relative_errors,
)
from ppo37.build import make_agent, make_factory
from ppo37.cli import main
from ppo37.compiled import library
from ppo37.envs import spaces_of
from ppo37.errors import UsageError
from ppo37.networks.agent import Agent
from ppo37.networks.nature import NatureCNN
from ppo37.networks.policies import CategoricalPolicy
from ppo37.session import checkpoint
from ppo37.session.directory import read_config

NATIVE = Path(ppo37.__file__).parent / "backends" / "native"
SMALL = (1, 36, 36)
WIDE = (48, 80, 128)  # channels: more than are computed at once


def _lack(bf16: bool) -> str:
    """Return why this machine has no kernels; "" if it has."""
    try:
        kernels_for(NatureCNN(SMALL, (16, 16, 16), 16), bf16)
    except UsageError as error:
        return str(error)
    return ""


CAPABILITY = torch.backends.cpu.get_cpu_capability()
LACK, LACK_BF16 = _lack(bf16=False), _lack(bf16=True)
native_only = pytest.mark.skipif(bool(LACK), reason=LACK)
bf16_only = pytest.mark.skipif(bool(LACK_BF16), reason=LACK_BF16)


@pytest.fixture(params=["fp32", "fp32 by AVX2", pytest.param("bf16", marks=bf16_only)])
def bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Run a test in every precision of this machine; True for bf16."""
    if request.param == "fp32 by AVX2":
        if CAPABILITY == "AVX2":
            pytest.skip("without AVX-512 that is fp32")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        _kernels.cache_clear()
    yield request.param == "bf16"
    if request.param == "fp32 by AVX2":
        _kernels.cache_clear()


class Rounded(torch.autograd.Function):
    """Rounding to bf16; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().double()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class GradientRounded(torch.autograd.Function):
    """The identity, whose gradient is rounded to bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].bfloat16().double()


def oracle(trunk: NatureCNN, obs: Tensor, bf16: bool) -> tuple[Tensor, list[Tensor]]:
    """Compute outputs in fp64, with bf16 between the layers if asked; return the parameters too."""
    x, parameters = obs.double(), []
    for layer in trunk.convolutions:
        weight = layer.weight.detach().double().requires_grad_()
        bias = layer.bias.detach().double().requires_grad_()
        parameters += [weight, bias]
        scaled = weight / 255.0 if layer is trunk.conv1 else weight
        products = F.conv2d(x, scaled, stride=layer.stride)
        if bf16:
            products = GradientRounded.apply(products)
        x = torch.relu(products + bias.view(-1, 1, 1))
        if bf16:
            x = Rounded.apply(x)
    weight, bias = (part.detach().double().requires_grad_() for part in trunk.dense.parameters())
    x = torch.relu(F.linear(x.flatten(1), weight, bias))
    return (Rounded.apply(x) if bf16 else x), [*parameters, weight, bias]


def ours(
    trunk: NatureCNN, obs: Tensor, bf16: bool, threads: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """Compute the same by our kernels; check that acting, by one thread, gives the same bits."""
    parameters = [part for layer in layers(trunk) for part in layer.parameters()]
    kernels = kernels_for(trunk, bf16)
    weights = weights_of(kernels, trunk, threads)
    x = Trunk.apply(kernels, weights, obs, threads, *parameters)
    assert torch.equal(x.nan_to_num(7.0), features(kernels, weights, obs, 1).nan_to_num(7.0))
    return x, parameters


def signs(generator: torch.Generator, shape: tuple[int, ...], share: float) -> Tensor:
    """Draw numbers -1, 0 and 1, of which `share` are not 0."""
    ones = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0
    return ones * (torch.rand(shape, generator=generator) < share)


def of_whole_numbers(
    obs_shape: tuple[int, ...],
    channels: tuple[int, int, int],
    features: int,
    generator: torch.Generator,
) -> NatureCNN:
    """Make a trunk with a dozen inputs for each output: sums are large enough to be rounded."""
    trunk = NatureCNN(obs_shape, channels, features)
    with torch.no_grad():
        for layer in layers(trunk):
            scale = 255.0 if layer is trunk.conv1 else 1.0
            share = 12.0 / layer.weight[0].numel()
            layer.weight.copy_(scale * signs(generator, layer.weight.shape, share))
            layer.bias.copy_(3.0 * signs(generator, layer.bias.shape, 0.5))
    return trunk


@native_only
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("obs_shape", "channels", "features", "count"),
    [
        *(
            (*shape, 16, count)
            for shape, count in product(
                [
                    ((4, 84, 84), (32, 64, 64)),
                    ((4, 84, 84), (16, 32, 32)),
                    (SMALL, (16, 16, 16)),
                    ((3, 71, 49), (32, 16, 64)),  # sides that leave borders unread
                    (SMALL, WIDE),
                ],
                [1, 6, 7],
            )
        ),
        (SMALL, (16, 16, 16), 100, 71),  # more than the dense layer computes at a time
    ],
)
def test_outputs_and_gradients_are_exact(
    obs_shape: tuple[int, ...],
    channels: tuple[int, int, int],
    features: int,
    count: int,
    bf16: bool,
    threads: int,
) -> None:
    generator = torch.Generator().manual_seed(1)
    trunk = of_whole_numbers(obs_shape, channels, features, generator)
    if bf16 and channels == WIDE:
        with pytest.raises(UsageError, match=r"no native kernels in bf16 for \(48, 80, 128\)"):
            kernels_for(trunk, bf16)
        return
    obs = torch.randint(0, 256, (count, *obs_shape), dtype=torch.uint8, generator=generator)
    expected, sources = oracle(trunk, obs, bf16)
    found, parameters = ours(trunk, obs, bf16, threads)
    assert found.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert torch.equal(found.double(), expected)
    assert 0.05 < (found == 0).float().mean() < 0.95, "the ReLU must matter"

    gradient = signs(generator, found.shape, 0.3)
    found.backward(gradient.to(found.dtype))
    expected.backward(gradient.double())
    for parameter, source in zip(parameters, sources, strict=True):
        assert parameter.grad is not None
        assert source.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert torch.equal(parameter.grad, source.grad.float())
        assert parameter.grad.any()


@native_only
def test_no_bit_depends_on_how_many_threads_there_are(bf16: bool) -> None:
    """Nor on which of them wait for a core, as happens with three threads on two cores."""
    agent = Agent((4, 84, 84), CategoricalPolicy(6), "nature_half", seed=1)
    obs = torch.randint(0, 256, (71, 4, 84, 84), dtype=torch.uint8)
    found = []
    for threads in (1, 2, 3, 3, 3):
        agent.zero_grad()
        x, parameters = ours(agent.trunk, obs, bf16, threads)
        x.square().sum().backward()
        found.append([x.detach(), *(parameter.grad for parameter in parameters)])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@native_only
def test_two_callers_at_once_get_what_each_gets_alone() -> None:
    """The pool runs one task at a time; a caller that finds it busy computes alone."""
    agent = Agent((4, 84, 84), CategoricalPolicy(6), "nature_half", seed=1)
    network = Native(agent, threads=2)
    batches = torch.randint(0, 256, (2, 64, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        expected = [forward_step(network, obs)[1] for obs in batches]
        with ThreadPoolExecutor(2) as callers:
            for _ in range(20):
                found = list(callers.map(lambda obs: forward_step(network, obs)[1], batches))
                assert all(map(torch.equal, found, expected))


@pytest.mark.slow
@native_only
def test_a_child_of_fork_has_a_pool_of_its_own() -> None:
    """Also where another thread of its parent was in the middle of a task."""
    code = """if True:
        import os, threading, torch
        from ppo37.networks.nature import NatureCNN
        from ppo37.backends.native.kernels import kernels_for, weights_of, features
        torch.set_num_threads(1)  # OpenMP's do not survive a fork
        trunk = NatureCNN((1, 36, 36), (16, 16, 16), 16)
        kernels = kernels_for(trunk, False)
        weights, obs = weights_of(kernels, trunk, 2), torch.ones(4096, 1, 36, 36, dtype=torch.uint8)
        before = features(kernels, weights, obs, 2)
        over = threading.Event()
        def compute():
            while not over.is_set():
                features(kernels, weights, obs, 2)
        threading.Thread(target=compute).start()
        for _ in range(20):
            child = os.fork()
            same = all(torch.equal(features(kernels, weights, obs, 2), before) for _ in range(3))
            if not child:
                os._exit(not same)
            assert same and os.waitpid(child, 0)[1] == 0
        over.set()
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@native_only
def test_a_sample_does_not_depend_on_those_beside_it(bf16: bool) -> None:
    """So the policy of a rollout, which gets few samples at a time, is the one that learns."""
    agent = Agent((4, 84, 84), CategoricalPolicy(6), "nature", seed=1)
    obs = torch.randint(0, 256, (9, 4, 84, 84), dtype=torch.uint8)
    together = ours(agent.trunk, obs, bf16)[0]
    single = torch.cat([ours(agent.trunk, one, bf16)[0] for one in obs.split(1)])
    assert torch.equal(together, single)


@native_only
def test_any_memory_format_gives_the_same_bits(bf16: bool) -> None:
    trunk = NatureCNN((3, 71, 49), (32, 16, 64), 16)
    obs = torch.randint(0, 256, (6, 3, 71, 49), dtype=torch.uint8)

    def computed(obs: Tensor) -> list[Tensor]:
        trunk.zero_grad()
        x, parameters = ours(trunk, obs, bf16)
        x.square().sum().backward()
        return [x.detach(), *(parameter.grad for parameter in parameters)]

    expected = computed(obs)
    trunk.to(memory_format=torch.channels_last)
    trunk.dense.weight.data = trunk.dense.weight.data.t().contiguous().t()
    for layer in (trunk.conv1, trunk.conv2, trunk.conv3, trunk.dense):
        assert not layer.weight.is_contiguous()
    channels_last = obs.to(memory_format=torch.channels_last)
    assert not channels_last.is_contiguous()
    for other in (obs, channels_last):
        assert all(map(torch.equal, computed(other), expected))


@native_only
@pytest.mark.parametrize(
    "obs", [torch.zeros(2, *SMALL), torch.zeros(2, 4, 9, 36, dtype=torch.uint8)]
)
def test_observations_of_another_type_or_shape_are_refused(obs: Tensor) -> None:
    trunk = NatureCNN(SMALL, (16, 16, 16), 16)
    with pytest.raises(ValueError, match=r"compiled for uint8 observations of shape \(1, 36, 36\)"):
        ours(trunk, obs, bf16=False)


def test_c_and_python_declare_the_same_arguments() -> None:
    """Fields of 8 bytes, pointers and `long`, in the same order."""
    sources = [(NATIVE / name).read_text() for name in ("trunk.h", "dense.c")]
    source = re.sub(r"/\*.*?\*/", "", "\n".join(sources), flags=re.DOTALL)
    structures = re.findall(r"typedef struct {([^}]*)} (\w+Arguments);", source)
    found = {name: body for body, name in structures}
    assert found.keys() == {structure.__name__ for structure in STEPS.values()}
    for structure in STEPS.values():
        fields = []
        for declaration in found[structure.__name__].split(";")[:-1]:
            kind, names = re.fullmatch(r"\s*(?:const )?(\w+) (.*)", declaration, re.DOTALL).groups()
            fields += [(name.strip(), kind) for name in names.split(",")]
        names = [name.lstrip("*") for name, _ in fields]
        assert names == [name for name, _ in structure._fields_]
        for (name, kind), (_, declared) in zip(fields, structure._fields_, strict=True):
            assert name.startswith("*") == (declared is ctypes.c_void_p)
            assert name.startswith("*") or kind == "long"


def test_every_exported_c_function_has_our_prefix() -> None:
    """All others are static, so that no other library can replace them."""
    for path in sorted(NATIVE.glob("*.[ch]")):
        for line in path.read_text().splitlines():
            defined = re.match(r"(?!typedef|static|INLINE|#)[a-z][\w ]*?[ *](\w+)\(", line)
            assert defined is None or defined[1].startswith("ppo37_"), f"{path.name}: {line}"


@pytest.mark.slow
def test_the_folder_can_be_deleted(tmp_path: Path) -> None:
    """Then PyTorch computes, and the reason is printed; what is asked for is refused in a line."""
    without = shutil.ignore_patterns("__pycache__", "native")
    copy = shutil.copytree(Path(ppo37.__file__).parent, tmp_path / "src" / "ppo37", ignore=without)
    assert not (copy / "backends" / "native").exists()
    environment = {**os.environ, "PYTHONPATH": str(copy.parent)}

    def run(kernels: str) -> "subprocess.CompletedProcess[str]":
        words = ["train", "catch", "--preset", "debug", "--total-timesteps", "512", "--kernels"]
        command = [sys.executable, "-m", "ppo37", *words, kernels, "--out", str(tmp_path / kernels)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    done = run("auto")
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "auto").kernels == "torch"
    if not LACK:
        assert "this copy of ppo37 has no native kernels" in " ".join(done.stderr.split())
    done = run("native")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("has no native kernels (backends/native)")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "native").exists()


@native_only
def test_what_is_not_a_number_is_not_hidden(bf16: bool) -> None:
    trunk = NatureCNN(SMALL, (16, 16, 16), 16)
    with torch.no_grad():
        trunk.conv2.weight[3, 2, 1, 0] = torch.nan
    x, parameters = ours(trunk, torch.full((2, *SMALL), 9, dtype=torch.uint8), bf16)
    assert x.isnan().any()
    x.sum().backward()
    assert parameters[4].grad.isnan().any()  # its inputs are not numbers


@native_only
@pytest.mark.parametrize(
    ("network", "seed"),
    [("nature", 1), ("nature", 2), ("nature_half", 3)],
)
def test_black_ground_gets_no_gradient(network: str, seed: int, bf16: bool) -> None:
    """As long as biases are 0: there sums are 0, whatever is beside, and so is ReLU's gradient."""
    trunk = Agent((4, 84, 84), CategoricalPolicy(6), network, seed=seed).trunk
    generator = torch.Generator().manual_seed(seed)
    obs = torch.zeros(16, 4, 84, 84, dtype=torch.uint8)
    for one in obs:
        row, column = torch.randint(0, 72, (2,), generator=generator)
        texture = torch.randint(128, 256, (12, 9), dtype=torch.uint8, generator=generator)
        one[:, row : row + 12, column : column + 9] = texture
    gradients = []
    for seen, parameters in (ours(trunk, obs, bf16), oracle(trunk, obs, bf16)):
        seen.backward(torch.ones_like(seen))
        gradients.append([parameter.grad for parameter in parameters])
    for found, expected in zip(*gradients, strict=True):
        assert relative_error(found.double(), expected) < (TOLERANCES["bf16"][1] if bf16 else 1e-4)


@native_only
def test_the_whole_network_is_as_close_to_fp64_as_that_of_pytorch(bf16: bool) -> None:
    agent = Agent((4, 84, 84), CategoricalPolicy(6), "nature", seed=1)
    obs = torch.randint(0, 256, (32, 4, 84, 84), dtype=torch.uint8)

    def outputs(network: Any) -> Tensor:
        distribution, values = forward_step(network, network.arrange(obs))
        with network.frozen_weights():
            frozen = forward_step(network, network.arrange(obs))[1]
            assert torch.equal(frozen, values)
        return torch.cat([distribution.logits, values.unsqueeze(1)], dim=1).detach()

    seen = oracle(agent.trunk, obs, bf16=False)[0]
    distribution, values, _ = agent.heads(seen, agent.initial_state(32), torch.zeros(32, 1))
    exact = torch.cat([distribution.logits, values.unsqueeze(1)], dim=1).detach()
    agent.bf16 = bf16

    def one_thread(agent: Agent) -> DeviceNetwork:
        return Native(agent, threads=1)

    error, theirs = (
        relative_error(outputs(form(agent)), exact) for form in (one_thread, SpaceToDepth)
    )
    assert 0.0 < error < min(1.5 * theirs, 0.02 if bf16 else 3e-6)


@native_only
@pytest.mark.parametrize(
    ("network", "precision"),
    [("nature_half", "fp32"), pytest.param("lstm", "bf16", marks=bf16_only)],
)
def test_a_run_by_native_kernels_is_resumed_bit_for_bit(
    network: str, precision: str, tmp_path: Path
) -> None:
    config = tiny(precision=precision, kernels="native", network=network)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", checkpoint_every=2)
    middle = checkpoint.numbered(tmp_path / "parts" / "checkpoints")[-1]
    resume(middle)
    whole, parts = (
        checkpoint.fingerprint(checkpoint.load_newest(tmp_path / name / "checkpoints")[0])
        for name in ("whole", "parts")
    )
    assert whole == parts
    assert log_without_times(tmp_path / "whole") == log_without_times(tmp_path / "parts")


@native_only
def test_the_choice_is_kept_by_the_run(tmp_path: Path) -> None:
    train(tiny(precision="fp32", kernels="auto", total_timesteps=64), tmp_path / "run")
    config = read_config(tmp_path / "run")
    assert config.precision == "fp32"
    assert config.kernels in ("torch", "native")


@pytest.mark.slow
@native_only
def test_what_was_compiled_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And two processes that start at the same time both get it."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    code = (
        "from ppo37.networks.nature import NatureCNN; "
        "from ppo37.backends.native.kernels import kernels_for; "
        f"print(kernels_for(NatureCNN({SMALL}, (16, 16, 32), 16), False).workspace_bytes)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    printed = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1
    kept = sorted((tmp_path / "ppo37").iterdir())
    assert [path.name.split("-")[0] for path in kept] == ["winograd"] * 2
    assert {path.suffix for path in kept} == {".so", ".sha256"}
    made_at = [path.stat().st_mtime_ns for path in kept]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    _kernels.cache_clear()
    kernels_for(NatureCNN(SMALL, (16, 16, 32), 16), bf16=False)
    assert [path.stat().st_mtime_ns for path in kept] == made_at


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set up a machine without a compiler, on which nothing was compiled before."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    library.cache_clear()
    _kernels.cache_clear()
    yield
    library.cache_clear()
    _kernels.cache_clear()


NO_COMPILER = "native kernels need a C compiler, and none was found"


@pytest.mark.usefixtures("bare")
def test_without_a_compiler_pytorch_computes() -> None:
    agent = Agent(SMALL, CategoricalPolicy(3), "nature_half", seed=1)
    choice = choose_precision(tiny(precision="auto", kernels="auto"), agent, SMALL, 32)
    assert choice.kernels == "torch"
    assert choice.reason.endswith(f"; {NO_COMPILER}")
    choice = choose_precision(tiny(kernels="auto"), agent, SMALL, 32)
    assert choice[:2] == ("fp32", "torch")
    assert choice.reason.endswith(f"; {NO_COMPILER}")
    choice = choose_precision(tiny(kernels="torch"), agent, SMALL, 32)
    assert choice == ("fp32", "torch", "as asked")


@native_only
def test_a_precision_without_native_kernels_is_none_to_choose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make_in_fp32(agent: Agent, kernels: str = "torch", threads: int = 1) -> DeviceNetwork:
        if agent.bf16 and kernels == "native":
            raise UsageError("not in bf16")
        return make_network(agent, kernels, threads)

    monkeypatch.setattr(precision, "make_network", make_in_fp32)
    monkeypatch.setattr(precision, "processor_kind", lambda _: "AMD with AVX512-BF16")
    agent = Agent(SMALL, CategoricalPolicy(3), "nature_half", seed=1)
    choice = choose_precision(tiny(precision="auto", kernels="native"), agent, SMALL, 32)
    assert choice[:2] == ("fp32", "native")
    assert "not in bf16" not in choice.reason, "it has native kernels all the same"
    assert not agent.bf16
    with pytest.raises(UsageError, match=r"^not in bf16$"):
        choose_precision(tiny(precision="bf16", kernels="native"), agent, SMALL, 32)
    choice = choose_precision(tiny(precision="auto", kernels="auto"), agent, SMALL, 32)
    assert choice[:2] == ("bf16", "torch")
    assert choice.reason.endswith("; not in bf16")


@pytest.mark.usefixtures("bare")
def test_kernels_that_are_asked_for_and_missing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", "breakout", "--preset", "debug", "--kernels", "native", "--out", str(run)]
    words += ["--device", "cpu"]
    for more, complaint in (
        ((), NO_COMPILER),
        (("--observation", "ram"), "native kernels are for the convolutions of nature"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*words, *more])
        assert complaint in capsys.readouterr().err
    assert not run.exists()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'x.c:3:2: error: #error \"no such luck\"' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    library.cache_clear()
    _kernels.cache_clear()
    with pytest.raises(UsageError, match=r"could not be compiled: no such luck$"):
        kernels_for(NatureCNN(SMALL, (16, 16, 16), 16), bf16=False)
    assert not list((tmp_path / "cache" / "ppo37").iterdir())


@pytest.mark.parametrize("kind", PROCESSORS)
def test_every_row_of_the_table_ranks_all_forms(kind: str) -> None:
    forms = {Backend(*both) for both in product(("fp32", "bf16"), ("torch", "native"))}
    assert set(PROCESSORS[kind]) == forms
    assert len(PROCESSORS[kind]) == len(forms)


@pytest.mark.parametrize(
    ("capability", "bf16", "vendor", "kind"),
    [
        ("AVX512", True, "AuthenticAMD", "AMD with AVX512-BF16"),
        ("AVX512", True, "GenuineIntel", "Intel with AVX512-BF16"),
        ("AVX512", True, "another", "x86 with AVX-512"),
        ("AVX512", False, "GenuineIntel", "x86 with AVX-512"),
        ("AVX2", False, "AuthenticAMD", "x86 with AVX2"),
        ("DEFAULT", False, "", "processor that the table does not know"),
    ],
)
def test_the_processor_decides(
    capability: str, bf16: bool, vendor: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(precision, "cpu_info", lambda: {"vendor_id": vendor})
    assert processor_kind("cpu") == kind
    assert kind in PROCESSORS


@native_only
@pytest.mark.parametrize("wrong", ["noise", "screens"])
def test_a_form_whose_numbers_are_wrong_is_not_chosen(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On noise, or only on what the network will see; no time is measured."""
    screens = torch.full((16, *SMALL), 50, dtype=torch.uint8)

    class Wrong(Native):
        def __call__(self, arranged: Tensor, *more: Tensor) -> Any:
            flat = bool((arranged == 50).all())
            distribution, values, lstm_state = super().__call__(arranged, *more)
            return distribution, values * (1.5 if flat == (wrong == "screens") else 1.0), lstm_state

    def make_wrong(agent: Agent, kernels: str = "torch", threads: int = 1) -> DeviceNetwork:
        return Wrong(agent, threads) if kernels == "native" else make_network(agent)

    monkeypatch.setattr(precision, "make_network", make_wrong)
    monkeypatch.setattr(precision, "processor_kind", lambda _: "x86 with AVX2")
    agent = Agent(SMALL, CategoricalPolicy(3), "nature_half", seed=1)
    choice = choose_precision(tiny(kernels="auto"), agent, SMALL, 32, screens)
    assert choice[:2] == ("fp32", "torch")
    assert "fp32 by native kernels disagrees with fp32" in choice.reason
    with pytest.raises(UsageError, match="fp32 by native kernels disagrees"):
        choose_precision(tiny(precision="auto", kernels="native"), agent, SMALL, 32, screens)


@pytest.mark.parametrize("game", ["pong", "seaquest"])
def test_forms_agree_on_first_screens(game: str) -> None:
    """Although much of them is flat ground, which is on the kink of ReLU: there the gradients of
    two correct forms differ by more than a tenth, and the self-test must not call that an error.
    """
    config = from_preset("fast", game, "cpu")
    envs = make_factory(config, num_threads=1)(4, seed=1)
    screens = first_screens(envs, make_agent(config, spaces_of(envs)))
    envs.close()
    assert screens is not None
    assert screens.shape == (32, 4, 84, 84)
    agent = make_agent(config, spaces_of(envs))
    bias = agent.trunk.conv1.bias
    with torch.no_grad():
        seen = agent.trunk.conv1(screens.float() / 255.0)
    assert (seen.abs() < 1e-4).float().mean() > 0.3, "flat ground"
    # In bf16, which PyTorch has everywhere.
    asked = dataclasses.replace(config, precision="bf16")
    choice = choose_precision(asked, agent, envs.obs_shape, 32, screens)
    assert choice.precision == "bf16"
    assert not bias.any(), "as it was"
    outputs = {}
    for form in (Backend("fp32", "torch"), Backend("bf16", "torch")):
        network = precision.network_in(form, agent)
        arranged = network.arrange(screens)
        outputs[form] = outputs_and_gradients(network, arranged, form.precision)
    assert relative_errors(*outputs.values())[1] > 0.1, "on the kink they differ"
