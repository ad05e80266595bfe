"""The pages in docs/how-to: their commands parse, and what they import exists."""

import ast
import re
import shlex
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny

from ppo37 import evaluate, load_agent, train
from ppo37.cli.options import build_parser
from ppo37.envs.source import EnvSource

PAGES = [*sorted((ROOT / "docs" / "how-to").glob("*.md")), ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)
TASKS = """class StopAtScore(Observer) | --eval-every 10240 | --keep-best | return "score"
--init-from runs/catch | resume runs/catch --total-timesteps | resume runs/catch --learning-rate
--config mine.toml | --seed 2 | ppo37 ablate | ppo37 plot | --logger mylog.py:MyLog
agent.act(obs | eval runs/catch --greedy | ppo37 record | env.render()
--env examples/environment.py:Dodge | train CartPole-v1 | --env examples/dodge.py:Dodge
--channels last | --import minatar.gym | --network examples/network.py:Rows | --wrapper | ONNX
ppo37 export | threading.Thread | -m cProfile | examples/bonus.py | --ent-coef 0.01:0"""
"""The lines of daily-tasks.md, one for each of the 29 tasks that it promises."""
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def _blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def _commands(page: Path) -> list[list[str]]:
    """Return the arguments of each command of ppo37, also of those in scripts."""
    lines = [line for block in _blocks(page, "sh") for line in block.splitlines()]
    commands = [
        shlex.split(line.partition(" > ")[0], comments=True) for line in lines if "ppo37 " in line
    ]
    arguments = [
        command[command.index("ppo37") + 1 :] for command in commands if "ppo37" in command
    ]
    return [each for each in arguments if not {".", "--version", "--help"} & set(each)]


@each_page
def test_commands_parse(page: Path) -> None:
    for arguments in _commands(page):
        options = build_parser().parse_args([each for each in arguments if each != "&"])
        assert options.command


@each_page
def test_imports_exist(page: Path) -> None:
    for block in _blocks(page, "python"):
        ast.parse(block)
        for line in re.findall(r"^from ppo37\S* import .*$", block, re.MULTILINE):
            exec(line, {})


def _run_block(page: str, containing: str) -> dict[str, Any]:
    """Run the block of Python of a page that has this text. Returns its names."""
    blocks = _blocks(ROOT / "docs" / "how-to" / page, "python")
    names: dict[str, Any] = {"__name__": "page"}
    exec(next(block for block in blocks if containing in block), names)
    return names


def test_daily_tasks(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 29 tasks are on the page, and its lines of Python run one after the other."""
    page = ROOT / "docs" / "how-to" / "daily-tasks.md"
    tasks = re.split(r" \| |\n", TASKS)
    assert (len(tasks), [task for task in tasks if task not in page.read_text()]) == (29, [])
    for file in re.findall(r"examples/\w+\.py", page.read_text()):
        assert (ROOT / file).exists()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, "runs/catch")
    names: dict[str, Any] = {"__name__": "page"}
    for block in _blocks(page, "python"):
        exec(block.replace('"fast"', '"debug"').replace("100_000", "128"), names)
    assert {path.name for path in Path("runs").iterdir()} == {"catch", "callbacks", "thread"}
    assert Path("runs/thread/summary.json").exists()
    assert names["screen"].shape[2] == 3


def test_rewards_are_changed_as_the_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_envs = _run_block("add-a-bonus.md", "class Cheaper")["make_envs"]
    assert Path("runs/cheaper/summary.json").exists()
    with closing(make_envs(2, 0)) as envs:
        envs.reset()
        np.testing.assert_array_equal(envs.step(np.ones(2, int)).rewards, np.float32([-0.001] * 2))
    function = _run_block("your-own-environment.md", "tall_cartpole")["tall_cartpole"]
    with closing(EnvSource(function)(2, 0)) as envs:
        envs.reset()
        np.testing.assert_array_equal(envs.step(np.ones(2, int)).rewards, np.float32(np.tanh(1)))


def test_own_networks_as_the_page_says(tmp_path: Path) -> None:
    network = _run_block("change-the-network.md", "class Separate")["Separate"]
    run = train(tiny(observation="ram", game="pong"), tmp_path / "run", network=network).run
    assert load_agent(run, network=network).agent.core is not None


def test_the_state_of_adam_as_the_page_says() -> None:
    """What is saved and loaded gives the same next step."""
    novelty = _run_block("add-a-bonus.md", "class Novelty")["Novelty"]

    def step(bonus: Any) -> None:
        bonus.adam.zero_grad()
        bonus.net(torch.ones(2, 3)).square().sum().backward()
        bonus.adam.step()

    first, second, untouched = novelty(3), novelty(3), novelty(3)
    step(first)
    tensors = {name: value.clone() for name, value in first.state_dict().items()}
    assert tensors.keys() == untouched.state_dict().keys()
    second.load_state_dict(tensors)
    step(first)
    step(second)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)


def test_the_loop_with_an_agent(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, "runs/catch")
    names = _run_block("publish-and-load.md", "agent.act(obs)")
    played = evaluate(finished_run, 1, seed=0)
    assert names["info"]["episode"] == {"r": played.scores[0], "l": played.lengths[0]}


@pytest.mark.parametrize("network", ["nature_half", "lstm"])
def test_the_export_to_onnx(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    train(tiny(network=network, total_timesteps=64), "runs/catch")
    _run_block("publish-and-load.md", "torch.onnx.export")
    session = runtime.InferenceSession("catch.onnx")
    agent = load_agent("runs/catch", "cpu").agent
    obs = torch.randint(0, 256, (5, 1, 36, 36), dtype=torch.uint8)
    state = torch.randn(5, agent.core.state_size)
    with torch.no_grad():
        policy, values, after = agent(obs, state, torch.zeros(5, 1))
    inputs = {"obs": obs.numpy(), "state": state.numpy()}
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, {name: inputs[name] for name in names})
    for ours, theirs in zip((*policy.outputs, values, after), found, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)
