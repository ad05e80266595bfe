"""What a user brings by the command line, and what a stranger's files may not bring."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import gymnasium
import pytest
from conftest import LIMIT_S, child_environment, run_command

from ppo37.cli.brought import absolute
from ppo37.session.directory import read_config

OWN = """
import gymnasium
import numpy as np

print("imported")


class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, goal=3):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(-1, 2))
        return np.float32([self.place]), {}

    def step(self, action):
        self.place = max(self.place + 2 * int(action) - 1, -9)
        done = self.place == self.goal
        return np.float32([self.place]), float(done), done, False, {}


class Half(gymnasium.RewardWrapper):
    def reward(self, reward):
        return reward / 2


def register():
    gymnasium.register("Walks/Walk-v0", Walk)
"""
TINY = ["--total-timesteps=128", "--num-envs=2", "--num-steps=16", "--num-minibatches=2"]
TINY += ["--device=cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with an environment in own_walk.py; modules are forgotten at the end."""
    (tmp_path / "own_walk.py").write_text(OWN)
    (tmp_path / "exits.py").write_text("import sys\n\nsys.exit(7)\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path.resolve()
    forget("walk")
    forget("hostile")
    gymnasium.registry.pop("Walks/Walk-v0", None)


def forget(module: str) -> None:
    """Let a module be imported again."""
    for name in [name for name in sys.modules if module in name]:
        del sys.modules[name]


class Result(NamedTuple):
    """The end of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ppo37(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command in this process, in the working directory."""
    return lambda *arguments: Result(*run_command(capsys, *arguments))


Ppo37 = Callable[..., Result]


WAYS = {
    "a class in a module": (["--env", "own_walk:Walk"], "Walk"),
    "a class in a file": (["--env", "own_walk.py:Walk"], "Walk"),
    "arguments": (["--env", "own_walk:Walk", "--env-kwargs", '{"goal": 2}'], "Walk"),
    "a wrapper": (["--env", "own_walk:Walk", "--wrapper", "own_walk:Half"], "Walk"),
    "an id after an import": (
        ["Walks/Walk-v0", "--import", "own_walk:register"],
        "Walks/Walk-v0",
    ),
    "workers": (["--env", "own_walk.py:Walk", "--env-workers", "2"], "Walk"),
}


@pytest.mark.parametrize("way", WAYS)
def test_environments_are_brought_and_named_again(way: str, folder: Path, ppo37: Ppo37) -> None:
    """They are trained on, resumed and evaluated; without their names nothing is imported."""
    options, game = WAYS[way]
    done = ppo37("train", *options, *TINY, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "auto is the preset classic_control" in done.stderr
    assert "observations: vector" in done.stderr
    config = read_config(folder / "run")
    assert config.game == game
    document = json.loads((folder / "run" / "config.json").read_text())
    assert all(len(value) == 64 for value in document["sources"].values())
    again = [o for o in options if not o.startswith(("Walks/", "2"))]
    drop = [i for i, o in enumerate(again) if o in ("--env-kwargs", "--env-workers")]
    again = [o for i, o in enumerate(again) if not any(i in (d, d + 1) for d in drop)]
    for command in (["eval", "run", "--episodes", "2", "--json"], ["resume", "run"]):
        forget("walk")
        refused = ppo37(*command)
        assert refused.returncode == 2
        assert "imported" not in refused.stdout
        assert "repeat --" in refused.stderr
        done = ppo37(*command, *again)
        assert done.returncode == 0, done.stderr
    assert "changed" not in done.stderr


def test_a_changed_source_is_said_and_the_run_is_no_longer_exact(
    folder: Path, ppo37: Ppo37
) -> None:
    command = ["--env", "own_walk.py:Walk"]
    assert ppo37("train", *command, *TINY, "--out", "run").returncode == 0
    assert json.loads((folder / "run" / "summary.json").read_text())["exact"] is True
    forget("walk")
    (folder / "own_walk.py").write_text(OWN + "\n# changed\n")
    done = ppo37("resume", "run", *command, "--total-timesteps", "256")
    assert done.returncode == 0, done.stderr
    assert "own_walk.py:Walk changed since" in done.stderr
    assert json.loads((folder / "run" / "summary.json").read_text())["exact"] is False


def test_a_run_from_a_stranger_imports_nothing(folder: Path, ppo37: Ppo37) -> None:
    """Neither by its settings nor by files in the working directory."""
    assert ppo37("train", "CartPole-v1", *TINY, "--out", "run").returncode == 0
    (folder / "hostile.py").write_text("open('stolen', 'w').close()\n")
    config = folder / "run" / "config.json"
    document = json.loads(config.read_text())
    for name, value in (
        ("env", "hostile:Env"),
        ("env", "hostile:CartPole-v1"),
        ("env", str(folder / "hostile.py") + ":Env"),
        ("imports", ["hostile"]),
        ("wrappers", ["hostile:Wrapper"]),
        ("network", "hostile:Network"),
    ):
        changed = {**document, "config": {**document["config"], name: value}}
        config.write_text(json.dumps(changed))
        for command in (["resume", "run"], ["eval", "run"], ["record", "run", "--out", "x.gif"]):
            if name != "network" and command[0] != "resume":
                continue  # they go by the checkpoint, whose manifest would have to be forged
            done = ppo37(*command)
            assert not (folder / "stolen").exists(), (name, command)
            if command[0] == "resume":
                assert done.returncode == 2, done.stderr
                assert "hostile" in done.stderr
    settings = folder / "mine.toml"
    settings.write_text('env = "hostile:Env"\n')
    done = ppo37("train", "--config", "mine.toml")
    assert (done.returncode, (folder / "stolen").exists()) == (2, False), done.stderr
    assert "repeat --env=hostile:Env" in done.stderr
    allowed = ppo37("train", "--config", "mine.toml", "--allow", "hostile:Env")
    assert allowed.returncode == 2
    assert (folder / "stolen").exists()  # now it was the user who named it
    assert "hostile has no Env" in allowed.stderr


def test_a_module_in_the_working_directory_replaces_none_that_is_installed(folder: Path) -> None:
    """Nor does it stand in for one that a library would use; the user's own ones are found."""
    libraries = ("safetensors", "tensorflow", "tensorboard", "multiprocessing", "selectors", "jax")
    for name in libraries:
        (folder / f"{name}.py").write_text(f"open('stolen {name}', 'w').close()\n")
    (folder / "goals.py").write_text("")
    with (folder / "own_walk.py").open("a") as file:
        file.write("\n\nclass Late(Walk):\n")
        file.write("    def step(self, action):\n        import goals\n\n")
        file.write("        return super().step(action)\n")
    command = [sys.executable, "-m", "ppo37", "train", "--env", "own_walk:Late", *TINY]
    command += ["--env-workers", "2"]
    done = subprocess.run(
        [*command, "--out", "run"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("stolen*"))


def test_arguments_that_may_name_a_module_have_to_be_allowed(folder: Path, ppo37: Ppo37) -> None:
    """Environments that other libraries register take the id of another one, with its module."""
    settings = folder / "mine.toml"
    settings.write_text("env = 'CartPole-v1'\nenv_kwargs = '{\"env_id\": \"hostile\"}'\n")
    done = ppo37("train", "--config", "mine.toml", *TINY)
    assert done.returncode == 2
    assert "repeat --env=CartPole-v1" in done.stderr
    done = ppo37("train", "--config", "mine.toml", "--env=CartPole-v1", *TINY)
    assert "unexpected keyword argument 'env_id'" in done.stderr


def test_files_in_any_folder_get_their_real_paths(folder: Path) -> None:
    for text in ("my.pyfiles/own.py:Walk", "my.pyfiles/own.py", 'a/w.py:Wrap {"x": "b.py:C"}'):
        assert absolute(text) == f"{folder}/{text}"
    for text in ("my.pyfiles", "module:Class", 'module:Class {"x": "b.py"}', "CartPole-v1"):
        assert absolute(text) == text


WRONG = {
    "both": (["pong", "--env", "own_walk:Walk"], "either GAME or --env"),
    "neither": ([], "give GAME or --env"),
    "no class": (["--env", "own_walk:Wolk"], "own_walk has no Wolk"),
    "no module": (["--env", "own_wolk:Walk"], "cannot import own_wolk"),
    "no file": (["--env", "own_wolk.py:Walk"], "own_wolk.py is not a file"),
    "no environment": (["--env", "json:loads"], "json:loads cannot be made"),
    "another object": (["--env", "builtins:dict"], "made a dict; it has to be a gymnasium.Env"),
    "arguments": (["--env", "own_walk:Walk", "--env-kwargs", "[1]"], "must be a JSON object"),
    "no json": (["--env", "own_walk:Walk", "--env-kwargs", "{goal}"], "not JSON"),
    "a wrong argument": (
        ["--env", "own_walk:Walk", "--env-kwargs", '{"gaol": 1}'],
        "unexpected keyword argument 'gaol'",
    ),
    "an id": (["--env", "CartPole-v9"], "did you mean CartPole-v1"),
    "a game": (["CartPool-v1"], "unknown game 'CartPool-v1'"),
    "a file that exits": (["--env", "exits.py:Walk"], "exits.py: SystemExit: 7"),
    "a module that exits": (["--env", "exits:Walk"], "cannot import exits: SystemExit: 7"),
    "a wrapper of nothing": (
        ["CartPole-v1", "--wrapper", "gymnasium.wrappers:Nothing"],
        "gymnasium.wrappers has no Nothing",
    ),
    "for pong": (["pong", "--wrapper", "gymnasium.wrappers:TimeLimit"], "pong is neither"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_one_line(wrong: str, folder: Path, ppo37: Ppo37) -> None:
    arguments, message = WRONG[wrong]
    done = ppo37("train", *arguments, *TINY, "--out", "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (folder / "run").exists()


MEANINGLESS = {
    "--frame-stack=4": "FrameStackObservation",
    "--protocol=machado": "protocol is for Atari",
    "--observation=ram": "observation of CartPole-v1 is vector",
    "--action-space=joystick": "action_space of CartPole-v1 is discrete",
    "--channels=last": "channels of CartPole-v1 is auto",
}


@pytest.mark.parametrize("option", MEANINGLESS)
def test_an_option_that_would_do_nothing_is_refused(
    option: str, folder: Path, ppo37: Ppo37
) -> None:
    done = ppo37("train", "CartPole-v1", option, *TINY, "--out", "run")
    assert (done.returncode, (folder / "run").exists()) == (2, False)
    assert MEANINGLESS[option] in done.stderr


def test_the_next_command_names_what_was_brought(folder: Path, ppo37: Ppo37) -> None:
    done = ppo37("train", "--env", "own_walk.py:Walk", *TINY, "--out", "run")
    command = done.stderr.splitlines()[-1].partition("next: ppo37 ")[2]
    assert ppo37(*shlex.split(command), "--episodes", "1").returncode == 0
