"""What needs an extra or a package of others.

Tests are skipped without it; `make test-extras` installs all.
"""

import importlib
import json
import os
import tomllib
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, fingerprint_and_log, run_command

from ppo37 import Observer, from_preset, resume, train
from ppo37.session.directory import read_config
from ppo37.session.observer import Progress

WITH_ALL = "EXTRAS" in os.environ
"""Whether `make test-extras` runs the tests: then nothing may be missing."""
NOT_PINNED = ("nvidia", "cuda", "triton")
"""The parts of CUDA, of which PyTorch names the exact versions."""


def needed(module: str) -> Any:
    """Import a module that an extra brings, or skip the test."""
    return importlib.import_module(module) if WITH_ALL else pytest.importorskip(module)


class StopsAfterOne(Observer):
    def update(self, progress: Progress) -> str | None:
        return "one update is done"


@pytest.mark.skipif(not WITH_ALL, reason="run by make test-extras")
def test_all_extras_are_installed_as_pinned() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    found = {canonicalize_name(each.metadata["Name"]): each.version for each in distributions()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = chain(*project["optional-dependencies"].values())
    named = {canonicalize_name(Requirement(each).name) for each in extras}
    assert named <= found.keys()
    free = {
        name: version
        for name, version in found.items()
        if name not in ("ppo37", "pip", "setuptools") and not name.startswith(NOT_PINNED)
        if pins.get(name) != Version(version).public
    }
    assert not free


@pytest.mark.filterwarnings("ignore:.*out of date.*:DeprecationWarning")
@pytest.mark.parametrize("env", ["HalfCheetah-v5", "Hopper-v4"])
def test_mujoco_resumes_exactly(env: str, tmp_path: Path) -> None:
    needed("mujoco")
    short = {"total_timesteps": 3 * 128, "num_steps": 128, "num_minibatches": 2, "threads": 1}
    config = from_preset("auto", env, "cpu", **short)
    assert (config.preset, config.action_space) == ("mujoco", "continuous")
    train(config, tmp_path / "whole", view=None)
    train(config, tmp_path / "stopped", view=None, callbacks=[StopsAfterOne()])
    resume(tmp_path / "stopped", view=None)
    assert fingerprint_and_log(tmp_path / "whole") == fingerprint_and_log(tmp_path / "stopped")


def test_minatar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed("minatar")
    run = tmp_path / "run"
    train_it = ["train", "MinAtar/Breakout-v1", "--import", "minatar.gym:register_envs"]
    settings = ["--total-timesteps", "2048", "--device", "cpu", "--out", str(run)]
    code, _, err = run_command(capsys, *train_it, *settings)
    assert code == 0, err
    assert "10 x 10 pixels, 4 channels (last axis)" in err
    config = read_config(run)
    assert (config.preset, config.network) == ("fast", "minatar")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["exact"]
    # Random play breaks half a brick a game (MinAtar's README), and a game lasts a dozen steps.
    assert 100 < summary["games"] < 300
    assert 0.2 < summary["last_100_mean"] < 1.5


def test_a_video_of_cartpole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed("pygame")
    image = needed("PIL.Image")
    run, video = tmp_path / "run", tmp_path / "x.gif"
    settings = ["--total-timesteps", "512", "--device", "cpu", "--out", str(run)]
    assert run_command(capsys, "train", "CartPole-v1", *settings)[0] == 0
    code, _, err = run_command(capsys, "record", str(run), "--out", str(video))
    assert code == 0, err
    with image.open(video) as frames:
        assert frames.n_frames > 5
        assert len(np.unique(np.asarray(frames.convert("L")))) > 5  # a cart, a pole and the bar
