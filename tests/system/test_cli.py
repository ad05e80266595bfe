"""The command line: one clear line for every mistake, and a README whose commands work."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_command, tiny

from ppo37 import train
from ppo37.cli.options import build_parser
from ppo37.config import flags
from ppo37.session import checkpoint

MISTAKES = [
    (("train", "pomg"), "did you mean pong"),
    (("train", "combat"), "no single-player mode"),
    (("train",), "give GAME or --env"),
    (("trian", "pong"), "invalid choice"),
    (("train", "pong", "--preset", "slow"), "invalid choice: 'slow'"),
    (("train", "pong", "--clip-coeff", "1"), "did you mean --clip-coef"),
    (("train", "pong", "--num-envs", "0"), "num_envs must be at least 1"),
    (("train", "pong", "--num-envs", "many"), "'many' is not a whole number"),
    (("train", "pong", "--gamma", "1.5"), "gamma must be at most 1"),
    (("train", "pong", "--learning-rate", "nan"), "learning_rate must be a finite number"),
    (("train", "pong", "--learning-rate=-1"), "learning_rate must be more than 0"),
    (("train", "pong", "--num-envs", "7", "--num-minibatches", "5"), "does not divide"),
    (("train", "pong", "--total-timesteps", "10"), "less than one rollout"),
    (("train", "pong", "--seed", "-1"), "seed must be at least 0"),
    (("train", "pong", "--checkpoint-every", "0"), "--checkpoint-every must be at least 1"),
    (("train", "pong", "--protocol", "mine"), "invalid choice"),
    (("train", "pong", "--precision", "fp8"), "invalid choice"),
    (("train", "pong", "--device", "mps"), "mps is not supported; on a Mac use --device cpu"),
    (("eval", "nowhere"), "nowhere does not exist"),
    (("resume", "nowhere"), "nowhere does not exist"),
    (("record", "nowhere"), "nowhere does not exist"),
    (("plot", "nowhere"), "nowhere does not exist"),
]


@pytest.mark.parametrize(("args", "expected"), MISTAKES, ids=lambda part: str(part)[:50])
def test_mistakes_are_one_line_and_exit_code_2(
    args: tuple[str, ...],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command(capsys, *args)
    assert code == 2
    assert out == ""
    assert expected in err
    assert len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == [], "a refused command left files"


def test_mistakes_about_run_directories(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in finished_run.rglob("*"))
    for args, expected in (
        (("train", "catch", "--out", str(finished_run)), "holds a run already"),
        (("train", "catch", "--out", str(ROOT / "src")), "not empty"),
        (("train", "catch", "--out", "/proc/no"), "cannot write /proc/no"),
        (("eval", str(tmp_path)), "not a run directory"),
        (("eval", str(finished_run), "--episodes", "0"), "from 1 to 1,000,000"),
        (("resume", str(ROOT)), "not a run directory"),
        (("eval", str(finished_run / "checkpoints" / "00000099")), "00000099 does not exist"),
        (("resume", str(finished_run / "checkpoints" / "00000099")), "00000099 does not exist"),
        (("eval", str(finished_run / "metrics.jsonl")), "not a run directory"),
        (("train", "catch", "--out", "x" * 300), "name too long"),
    ):
        code, _, err = run_command(capsys, *args)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert expected in err
    assert sorted(path.name for path in finished_run.rglob("*")) == before


@pytest.mark.parametrize("command", ["eval", "record", "resume"])
def test_a_custom_game_needs_its_environments(
    command: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(finished_run, tmp_path / "run"))
    document = json.loads((path / "config.json").read_text())
    document["config"]["game"] = "dodge"
    (path / "config.json").write_text(json.dumps(document))
    saved = checkpoint.load(path / "checkpoints" / "00000006")
    state = {**saved.state, "config": document["config"]}
    checkpoint.save(saved.path, saved.model, saved.optimizer, state, saved.actions)
    code, _, err = run_command(capsys, command, str(path))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "'dodge' is not an Atari game; your own environments are given by --env" in err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_command(capsys, "--debug", "train", "pomg")
    assert code == 2
    assert "Traceback" in err


def test_names_of_games(capsys: pytest.CaptureFixture[str]) -> None:
    from ppo37.envs.games import resolve_game

    for name in ("pong", "Pong", "ALE/Pong-v5", "PongNoFrameskip-v4", "PONG"):
        assert resolve_game(name) == "pong"
    assert resolve_game("ALE/SpaceInvaders-v5") == "space_invaders"
    assert resolve_game("BeamRiderNoFrameskip-v4") == "beam_rider"
    code, out, _ = run_command(capsys, "games", "--json")
    games = {game["name"]: game for game in json.loads(out)["games"]}
    assert code == 0
    assert len(games) == 105
    assert games["breakout"]["cleanrl_ppo_atari"] == 414.66  # CleanRL, ppo_atari benchmark
    assert games["yars_revenge"]["human"] == 54576.9


def test_eval_prints_one_json_object(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_command(capsys, "eval", str(finished_run), "--episodes", "5", "--json")
    result = json.loads(out)
    assert code == 0
    assert len(result["scores"]) == result["episodes"] == 5
    assert result["mean"] == pytest.approx(sum(result["scores"]) / 5)
    assert result["interval"][0] <= result["mean"] <= result["interval"][1]


def test_train_and_resume_print_one_json_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--preset", "debug", "--precision", "fp32", "--out", str(tmp_path / "run"), "--json")
    code, out, err = run_command(capsys, "train", "catch", *options)
    assert code == 0, err
    assert json.loads(out)["agent_steps"] == 256
    assert "256 agent steps: 4 updates" in err
    code, out, err = run_command(capsys, "resume", str(tmp_path / "run"), "--json")
    assert code == 0
    assert json.loads(out)["finished"]
    lines = err.splitlines()
    assert "is finished: nothing is left to do" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["finished", "next:"]


def test_every_setting_is_an_option() -> None:
    import dataclasses

    from ppo37 import Config

    options = vars(
        build_parser().parse_args(
            ["train", "pong", "--no-anneal-lr", "--target-kl", "none", "--gamma", "0.9"]
        )
    )
    assert options["anneal_lr"] is False
    assert options["target_kl"] is None
    assert options["gamma"] == 0.9
    for field in dataclasses.fields(Config):
        if field.name in ("game", "preset"):
            continue
        arguments = ["train", "pong", *flags({field.name: field.default})]
        options = vars(build_parser().parse_args(arguments))
        assert options.get(field.name, field.default) == field.default


def test_the_old_name_of_an_option_works_and_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    parse = build_parser().parse_args
    for prefix, expected in (("--", True), ("--no-", False)):
        for name in ("zero-mean-init", "contrast-init"):
            assert parse(["train", "pong", prefix + name]).zero_mean_init is expected
    code, out, _ = run_command(capsys, "train", "--help")
    assert code == 0
    assert "--zero-mean-init" in out
    assert "contrast" not in out


def _readme_commands() -> list[str]:
    """Return the commands in the README and other documents."""
    pages = [ROOT / "README.md", *ROOT.glob("agents/*/README.md"), ROOT / "docs" / "reliability.md"]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        if not block.startswith("#!")
    ]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line})


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = next(block for block in blocks if block.startswith("from ppo37"))
    monkeypatch.chdir(tmp_path)
    shorter = code.replace("200_000", "1024").replace("episodes=30", "episodes=2")
    assert shorter.count("1024") == shorter.count("episodes=2") == 1
    exec(shorter, {})
    assert len(list(tmp_path.glob("runs/breakout__fast__s1__*"))) == 1


def test_readme_has_commands() -> None:
    commands = _readme_commands()
    assert "make train" in commands
    assert any(line.startswith("ppo37 eval") for line in commands)


@pytest.mark.parametrize("line", _readme_commands())
def test_readme_commands_parse(line: str) -> None:
    args = shlex.split(line)
    if args[0] == "torchrun":
        args = args[args.index("ppo37") :]
    if args[0] == "ppo37":
        options = build_parser().parse_args([arg.replace("RUN", "runs/x") for arg in args[1:]])
        assert options.command
    elif args[0] == "make":
        target = args[1] if len(args) > 1 else "train"
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif args[0].startswith("python"):
        assert (ROOT / args[1]).is_file() or args[1] == "-m"
    else:
        assert args[0] in ("git", "cd", "pip", "tensorboard"), line


def test_the_published_agent_can_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_command(
        capsys, "eval", str(ROOT / "agents" / "pong"), "--episodes", "1", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["mean"] >= 10


@pytest.mark.slow
def test_the_first_command_of_the_readme_runs(tmp_path: Path) -> None:
    """Run `make train` on a small game, in the environment of the tests."""
    command = [
        "make",
        "-o",
        ".venv/.installed",
        "train",
        f"BIN={Path(sys.executable).parent}",
        "GAME=catch",
        "ARGS=--preset debug",
        f"RUN={tmp_path / 'run'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "30 whole games" in done.stdout
    assert list((tmp_path / "run" / "videos").glob("*.mp4"))
    assert (tmp_path / "run" / "plots" / "return.png").is_file()


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ppo37", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ppo37 ")


def test_ctrl_c_before_training_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import ppo37.envs.games

    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(ppo37.presets, "resolve_game", interrupted)
    code, _, err = run_command(capsys, "train", "pong")
    assert code == 130
    assert "Traceback" not in err


def test_an_unexpected_failure_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(total_timesteps=64), tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("ppo37.tools.plots.plot", lambda *_, **__: 1 / 0)
        code, _, err = run_command(capsys, "plot", str(tmp_path / "run"))
    assert code == 1
    assert err == "ppo37: ZeroDivisionError: division by zero (--debug shows where)\n"
    for damaged in (b"not json\nnor this\n", b"\xff\n\xff\n"):
        log.write_bytes(damaged)
        code, _, err = run_command(capsys, "plot", str(tmp_path / "run"))
        assert code == 2
        assert "line 1 is damaged" in err
        assert len(err.splitlines()) == 1
    log.write_text('{"update": 1}\n')
    code, _, err = run_command(capsys, "plot", str(tmp_path / "run"))
    assert code == 2
    assert "line 1 is not the log of an update" in err
