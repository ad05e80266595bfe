"""Checks of everything that ppo37 needs; each one uses the thing that it checks.

Modules are imported in their checks, so that a broken installation can be checked, too.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 11)
OLDEST_ALE = (0, 12, 1)
GAME, GAME_ENVS, GAME_STEPS = "breakout", 2, 50
MINIBATCH = 64
"""Samples of the self-test."""
SAME_SPEED = 1.05
"""Times that differ by less than this factor count as equal."""
LEAST_DISK_BYTES = 1 << 30
"""Three checkpoints are 60 MB; logs, videos and a second run need space, too."""
LEAST_MEMORY_BYTES = 1 << 30
"""The preset classic needs about 0.6 GiB."""

INSTALL_TORCH = "install PyTorch as pytorch.org recommends, or `pip install torch`"
INSTALL_ALE = "pip install 'ale-py>=0.12.1'"
INSTALL_VIDEO = "`ppo37 record` needs it: pip install 'ppo37[video]'"
INSTALL_PYGAME = "videos of CartPole and its like need it: pip install 'ppo37[video]'"
INSTALL_PLOT = "`ppo37 plot` needs it: pip install matplotlib"
INSTALL_TENSORBOARD = "pip install tensorboard"


class Check(NamedTuple):
    """The result of a check. `ok` with a remedy is a note: something optional is missing."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor() -> list[Check]:
    """Run all checks, in a few seconds. Never raises: an error is a check that is not ok."""
    checks: tuple[tuple[str, Callable[[], Check], str], ...] = (
        ("python", _python, "install Python 3.11 or newer"),
        ("torch", _torch, INSTALL_TORCH),
        ("cuda", _cuda, INSTALL_TORCH),
        ("ale-py", _ale, INSTALL_ALE),
        ("emulator", _emulator, f"reinstall the emulator: {INSTALL_ALE}"),
        ("layers", _layers, "train with --precision fp32 --kernels torch"),
        ("video", _video, INSTALL_VIDEO),
        ("plot", _plot, INSTALL_PLOT),
        ("tensorboard", _tensorboard, INSTALL_TENSORBOARD),
        ("disk", _disk, "change to a writable directory, or use --out"),
        ("memory", _memory, "close other programs"),
        ("cores", _cores, INSTALL_TORCH),
    )
    return [_attempt(name, check, remedy) for name, check, remedy in checks]


def table(checks: list[Check]) -> str:
    """Format the checks, one per line, each remedy below its check."""
    lines = []
    for check in checks:
        mark = "FAIL" if not check.ok else "note" if check.remedy else "ok"
        lines.append(f"{mark:5} {check.name:12} {check.detail}")
        if check.remedy:
            lines.append(f"{'':18} -> {check.remedy}")
    return "\n".join(lines)


def _attempt(name: str, check: Callable[[], Check], remedy: str) -> Check:
    """Run a check; if it raises, return the error with the remedy."""
    try:
        return check()
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name, False, text, remedy)


def _python() -> Check:
    detail = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    return Check("python", ok, detail, "" if ok else "install Python 3.11 or newer")


def _torch() -> Check:
    import torch

    ok = _numbers(torch.__version__) >= OLDEST_TORCH
    detail = (
        f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads"
    )
    return Check("torch", ok, detail, "" if ok else f"2.11 is the oldest: {INSTALL_TORCH}")


def _cuda() -> Check:
    import torch

    if torch.cuda.is_available():
        memory_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        name = torch.cuda.get_device_name()
        return Check("cuda", True, f"{name}, {memory_gib:.0f} GiB, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Check("cuda", True, "no GPU: agents train on the CPU")
    build = torch.version.cuda or "no CUDA"
    return Check(
        "cuda",
        True,
        f"there is a GPU driver, but PyTorch (built with {build}) finds no GPU",
        INSTALL_TORCH,
    )


def _ale() -> Check:
    from ale_py import roms

    version = importlib.metadata.version("ale-py")
    count = len(roms.get_all_rom_ids())
    ok = _numbers(version) >= OLDEST_ALE and count > 0
    return Check("ale-py", ok, f"{version}, {count} ROMs", "" if ok else INSTALL_ALE)


def _emulator() -> Check:
    import numpy as np

    from ..envs import env_factory

    envs = env_factory(GAME)(GAME_ENVS, seed=0)
    draws = np.random.default_rng(0)
    actions = draws.integers(len(envs.action_names), size=(GAME_STEPS, GAME_ENVS))
    try:
        obs = envs.reset()
        start = time.perf_counter()
        for row in actions:
            obs = envs.step(row).obs
        spent_s = time.perf_counter() - start
    finally:
        envs.close()
    ok = bool(obs.any())
    detail = f"{GAME_STEPS} steps of {GAME}, {GAME_STEPS * GAME_ENVS / spent_s:,.0f} steps/s"
    return Check(
        "emulator",
        ok,
        detail if ok else "the screen is black",
        "" if ok else f"reinstall the emulator: {INSTALL_ALE}",
    )


def _layers() -> Check:
    from ..backends.device import resolve_device
    from ..backends.precision import choose_precision
    from ..config import Config, describe_layers
    from ..envs.atari.protocols import OBS_SHAPE
    from ..networks.agent import Agent
    from ..networks.policies import CategoricalPolicy

    agent = Agent(OBS_SHAPE, CategoricalPolicy(4), "nature", seed=0).to(resolve_device("auto"))
    choice = choose_precision(Config(), agent, OBS_SHAPE, MINIBATCH)
    layers = describe_layers(choice.precision, choice.kernels)
    return Check("layers", True, f"--precision auto means {layers} ({choice.reason})")


def measure() -> list[dict[str, Any]]:
    """Measure the speed of a gradient step with each backend: precision and kernels.

    For the networks and minibatches of `classic` and `fast`: samples a second of each backend, the
    fastest first, and the backend that the table of processors chooses.
    """
    from ..backends.device import prepare_process, resolve_device, usable_cores
    from ..backends.precision import Backend, choose_precision
    from ..backends.precision import measure as measure_backends
    from ..envs.atari.protocols import OBS_SHAPE
    from ..networks.agent import Agent
    from ..networks.policies import CategoricalPolicy
    from ..presets import from_preset

    device, found = resolve_device("auto"), []
    prepare_process(device, usable_cores())
    for preset in ("classic", "fast"):
        config = from_preset(preset, GAME, device)
        agent = Agent(OBS_SHAPE, CategoricalPolicy(4), config.network, seed=0).to(device)
        choice = choose_precision(config, agent, OBS_SHAPE, config.minibatch_size)
        seconds = measure_backends(agent, OBS_SHAPE, config.minibatch_size)
        chosen = Backend(choice.precision, choice.kernels)
        found.append(
            {
                "preset": preset,
                "minibatch": config.minibatch_size,
                "chosen": " ".join(chosen),
                "chosen_is_fastest": seconds[chosen] <= SAME_SPEED * min(seconds.values()),
                "samples_per_s": {
                    " ".join(backend): config.minibatch_size / spent
                    for backend, spent in sorted(seconds.items(), key=lambda item: item[1])
                },
            }
        )
    return found


def speeds_table(found: list[dict[str, Any]]) -> str:
    """Format the result of `measure`."""
    lines = []
    for row in found:
        speeds = ", ".join(f"{name} {speed:,.0f}" for name, speed in row["samples_per_s"].items())
        verdict = "the fastest here" if row["chosen_is_fastest"] else "NOT the fastest here"
        lines.append(
            f"{row['preset']}, minibatches of {row['minibatch']}: {speeds} samples/s; "
            f"the table chooses {row['chosen']}: {verdict}"
        )
    return "\n".join(lines)


def _video() -> Check:
    if missing := _missing("imageio_ffmpeg", "PIL"):
        return Check("video", True, f"{missing} is not installed", INSTALL_VIDEO)
    import imageio_ffmpeg

    ffmpeg = f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"
    if importlib.util.find_spec("pygame") is None:  # to import it would print a line
        return Check("video", True, f"{ffmpeg}, but pygame is not installed", INSTALL_PYGAME)
    return Check("video", True, ffmpeg)


def _plot() -> Check:
    if missing := _missing("matplotlib"):
        return Check("plot", True, f"{missing} is not installed", INSTALL_PLOT)
    return Check("plot", True, f"matplotlib {importlib.metadata.version('matplotlib')}")


def _tensorboard() -> Check:
    if missing := _missing("tensorboard"):
        return Check("tensorboard", False, f"{missing} is not installed", INSTALL_TENSORBOARD)
    return Check("tensorboard", True, importlib.metadata.version("tensorboard"))


def _disk() -> Check:
    with tempfile.TemporaryFile(dir=Path.cwd()) as file:
        file.write(b"\0")
    free = shutil.disk_usage(Path.cwd()).free
    ok = free >= LEAST_DISK_BYTES
    return Check(
        "disk",
        ok,
        f"this directory is writable, {free / 2**30:.1f} GiB free",
        "" if ok else "free 1 GiB, or use --out on another disk",
    )


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    enough = memory.available >= LEAST_MEMORY_BYTES
    remedy = "" if enough else "close other programs, or train with fewer --num-envs"
    detail = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} available"
    return Check("memory", True, detail, remedy)


def _cores() -> Check:
    from ..backends.device import usable_cores

    return Check("cores", True, f"{usable_cores()} of {os.cpu_count()} may be used")


def _missing(*modules: str) -> str | None:
    """Return the first of some modules that cannot be imported; None if all can."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            return name
    return None


def _numbers(version: str) -> tuple[Any, ...]:
    """Convert a version to numbers: `2.13.0+cpu` to (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))
