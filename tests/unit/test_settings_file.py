"""Settings in TOML files: read for --config, and written by `ppo37 config`."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from conftest import run_command, tiny, train_arguments

from ppo37.cli.settings_file import read_settings, to_toml
from ppo37.config import Config, from_dict
from ppo37.errors import UsageError
from ppo37.presets import from_preset


@pytest.mark.parametrize("preset", ["classic", "fast", "debug"])
def test_settings_that_are_written_are_read(preset: str, tmp_path: Path) -> None:
    for changes in ({}, {"ent_coef": "0.01:0", "target_kl": None, "total_timesteps": 123_456}):
        config = from_preset(preset, "pong", "cpu", **changes)
        file = tmp_path / "a.toml"
        file.write_text(to_toml(config, "a comment\nof two lines"))
        assert from_dict(read_settings(file)) == config


def test_every_kind_of_text_is_written(tmp_path: Path) -> None:
    kwargs = '{"a": "\\u007f \\\\ \\" é 😀 \\n"}'
    config = dataclasses.replace(Config(), env="a:b", env_kwargs=kwargs, imports=("x", 'y "z"'))
    text = to_toml(config, "")
    assert tomllib.loads(text)["env_kwargs"] == kwargs
    assert tomllib.loads(text)["imports"] == ["x", 'y "z"']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rat = 1", "unknown setting 'learning_rat'; did you mean learning_rate?"),
        ("seed = 'a'", "seed must be of type int, not 'a'"),
        ("seed = 1979-05-27", "seed must be of type int"),
        ("num_envs = 1.5", "num_envs must be a whole number, not 1.5"),
        ("learning_rate = nan", "learning_rate must be a finite number"),
        ("[ppo]\nseed = 1", "[ppo] is a table"),
        ("seed = 1\nseed = 2", "is not TOML"),
        ("\x00", "is not TOML"),
        ("x = " + "[" * 100_000, "is not TOML"),
        ("#" * 2_000_000, "is larger than"),
    ],
    ids=lambda text: text[:20],
)
def test_wrong_files_are_explained(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_settings(file)
    assert str(file) in str(error.value)
    assert expected in str(error.value)


def test_old_names_and_whole_numbers(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('contrast_init = true\ntotal_timesteps = 2.5e5\ntarget_kl = "none"')
    config = from_dict(read_settings(file))
    assert (config.zero_mean_init, config.total_timesteps, config.target_kl) == (
        True,
        250_000,
        None,
    )


def test_the_settings_of_a_run_reproduce_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = tiny(total_timesteps=64, ent_coef="0.01:0")
    run_command(capsys, *train_arguments(short, tmp_path / "run"))
    code, out, err = run_command(capsys, "config", "run")
    assert (code, err) == (0, "")
    (tmp_path / "mine.toml").write_text(out)
    code, *_ = run_command(capsys, "train", "--config", "mine.toml", "--out", "again")
    assert code == 0
    prints = [run_command(capsys, "fingerprint", run)[1] for run in ("run", "again")]
    assert prints[0] == prints[1]


def test_options_replace_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'game = "pong"\npreset = "debug"\nseed = 5\nlearning_rate = 1e-3\nanneal_lr = true'
    )
    more = ("--seed", "6", "--learning-rate", "1e-3:1e-4", "--config", str(file))
    code, out, _ = run_command(capsys, "config", "breakout", *more)
    found = tomllib.loads(out)
    assert code == 0
    assert (found["game"], found["preset"], found["seed"]) == ("breakout", "debug", 6)
    assert (found["learning_rate"], found["anneal_lr"]) == ("1e-3:1e-4", False)


def test_a_module_in_a_file_is_not_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    (tmp_path / "mine.toml").write_text('env = "evil:Env"')
    code, _, err = run_command(capsys, "train", "--config", "mine.toml")
    assert code == 2
    assert "repeat --env=evil:Env on the command line" in err
