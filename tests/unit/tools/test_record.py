"""Films: every picture of them is decoded again, and a failure leaves nothing behind."""

import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import tiny

from ppo37 import evaluate, load_agent, train
from ppo37.envs.catch import CELLS
from ppo37.errors import RunError, UsageError
from ppo37.tools import record as recording
from ppo37.tools.evaluate import translation
from ppo37.tools.record import BAR_HEIGHT, EnvState, Recording, record

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
Image = pytest.importorskip("PIL.Image")


class Filmed(NamedTuple):
    """A film and what the agent lived through while it was made."""

    made: Recording
    env_states: list[EnvState]


def film(run: Path, out: Path, **options: Any) -> Filmed:
    """Record, and keep the env_states."""
    env_states: list[EnvState] = []
    play = recording._play

    def observed(*arguments: Any) -> Iterator[EnvState]:
        for moment in play(*arguments):
            env_states.append(moment)
            yield moment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "_play", observed)
        return Filmed(record(run, out, **options), env_states)


@pytest.fixture(scope="module")
def breakout_mp4(breakout_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Filmed:
    return film(breakout_run, tmp_path_factory.mktemp("film") / "breakout.mp4")


@pytest.fixture(scope="module")
def breakout_gif(breakout_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Filmed:
    return film(breakout_run, tmp_path_factory.mktemp("film") / "breakout.gif", seed=1)


def decode(path: Path) -> tuple[dict[str, Any], Iterator[np.ndarray]]:
    """What ffmpeg says of a film, and its pictures."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, (np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader)


def blocks(picture: np.ndarray, across: int, down: int) -> np.ndarray:
    """The blocks below the bar that each show one pixel: [H, down, W, across, 3]."""
    height, width, _ = picture[BAR_HEIGHT:].shape
    split = picture[BAR_HEIGHT:].reshape(height // down, down, width // across, across, 3)
    return split.astype(int)


def test_mp4_shows_every_frame_at_60_a_second(breakout_mp4: Filmed) -> None:
    made, env_states = breakout_mp4.made, breakout_mp4.env_states
    meta, pictures = decode(made.path)
    screens = [screen for moment in env_states for screen in moment.screens]
    assert meta["fps"] == 60
    assert meta["codec"] == "h264"
    assert "yuv420p" in meta["pix_fmt"]
    assert meta["size"] == (480, 420 + BAR_HEIGHT)
    assert made.frames == len(screens) + 60  # the last one stays for a second
    assert made.seconds == made.frames / 60
    assert made.length == len(env_states)
    for picture, screen in zip(pictures, [*screens, *[screens[-1]] * 60], strict=True):
        centres = blocks(picture, 3, 2)[:, 1, :, 1]
        assert np.abs(centres - screen).mean() < 2


def test_mp4_begins_with_its_index(breakout_mp4: Filmed) -> None:
    content = breakout_mp4.made.path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_film_is_in_colour(breakout_mp4: Filmed) -> None:
    _, pictures = decode(breakout_mp4.made.path)
    bricks = next(pictures)[BAR_HEIGHT + 2 * 57 : BAR_HEIGHT + 2 * 93, 30:450].astype(int)
    red, green, blue = np.moveaxis(bricks, -1, 0)
    assert (red - blue > 60).mean() > 0.2, "red and yellow rows"
    assert (blue - red > 60).mean() > 0.1, "blue row"
    assert (green - blue > 30).mean() > 0.1, "green row"


def test_the_game_is_the_one_that_evaluate_plays(
    breakout_run: Path, breakout_mp4: Filmed, breakout_gif: Filmed
) -> None:
    for made in (breakout_mp4.made, breakout_gif.made):
        played = evaluate(breakout_run, episodes=1, seed=made.seed)
        assert [made.score] == played.scores
        assert [made.length] == played.lengths
        assert made.complete


def test_gif_shows_each_step_as_the_agent_sees_it(breakout_gif: Filmed) -> None:
    made, env_states = breakout_gif.made, breakout_gif.env_states
    screens = [np.maximum(*moment.screens[-2:]) for moment in env_states if len(moment.screens) > 1]
    with Image.open(made.path) as image:
        assert image.format == "GIF"
        assert image.info["loop"] == 0
        assert image.size == (480, 420 + BAR_HEIGHT)
        assert image.n_frames == made.frames
        assert len(env_states) + 15 == made.frames
        seconds = 0.0
        for number in range(image.n_frames):
            image.seek(number)
            seconds += image.info["duration"] / 1000
            if number >= len(screens):
                continue
            picture = blocks(np.asarray(image.convert("RGB")), 3, 2)
            assert np.abs(picture - screens[number][:, None, :, None]).max() <= 4, number
    assert seconds == pytest.approx(made.seconds, abs=0.1)
    assert made.path.stat().st_size < 1e6


def test_the_bar_follows_the_game(breakout_mp4: Filmed) -> None:
    env_states = breakout_mp4.env_states
    _, pictures = decode(breakout_mp4.made.path)
    bars = [picture[:BAR_HEIGHT] for picture in pictures]
    background = np.abs(bars[0].astype(int) - recording.BAR).max(axis=2) < 30
    assert 0.5 < background.mean() < 0.97, "text on a plain ground"
    first_of_second_step = len(env_states[0].screens)
    assert np.abs(bars[0].astype(int) - bars[first_of_second_step]).max() > 60
    paint = recording._bar_painter("Breakout")
    some = env_states[10]
    parts = {
        "score": some._replace(scores=(98765.0,)),
        "step": some._replace(step=54321),
        "action": some._replace(action="UPRIGHTFIRE"),
        "value": some._replace(value=-9.87),
    }
    painted = {name: paint(moment, 480).tobytes() for name, moment in parts.items()}
    assert len({*painted.values(), paint(some, 480).tobytes()}) == 5, "each part is shown"


def test_the_score_rises_while_the_game_goes_on(breakout_mp4: Filmed) -> None:
    scores = [moment.scores[-1] for moment in breakout_mp4.env_states]
    assert scores == sorted(scores)
    assert scores[-1] == breakout_mp4.made.score
    assert [moment.step for moment in breakout_mp4.env_states] == list(range(1, len(scores) + 1))


def test_catch_is_filmed_without_a_screen(finished_run: Path, tmp_path: Path) -> None:
    filmed = film(finished_run, tmp_path / "catch.mp4", games=3)
    made, env_states = filmed.made, filmed.env_states
    ends = [moment for moment in env_states if moment.ended]
    assert len(ends) == made.games == 3
    assert made.length == len(env_states) == sum(moment.step for moment in ends)
    assert made.score == pytest.approx(np.mean([moment.scores[-1] for moment in ends]))
    played = evaluate(finished_run, episodes=1, seed=0)
    assert (ends[0].scores[0], ends[0].step) == (played.scores[0], played.lengths[0])
    meta, pictures = decode(made.path)
    assert meta["size"] == (432, 432 + BAR_HEIGHT)
    shown = list(pictures)
    assert len(shown) == made.frames == 4 * len(env_states) + 3 * 60
    last = shown[4 * ends[0].step - 1][BAR_HEIGHT:].astype(int)
    cell = 432 // CELLS
    board = last[cell // 2 :: cell, cell // 2 :: cell].mean(axis=2)
    assert np.abs(last - last.mean(axis=2, keepdims=True)).max() < 12, "grey"
    assert set(np.flatnonzero(board.max(axis=1) > 64)) == {CELLS - 1}, "the ball has landed"


def test_memory_does_not_grow_with_the_film(finished_run: Path, tmp_path: Path) -> None:
    def peak(seconds: float) -> int:
        tracemalloc.start()
        try:
            made = record(finished_run, tmp_path / "f.mp4", games=10**6, max_seconds=seconds)
            assert made.frames == 60 * seconds
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(0.5)  # what is imported and cached once
    picture = 3 * 432 * (432 + BAR_HEIGHT)
    assert peak(8) - peak(1) < 2 * picture, "420 more pictures were shown"


def test_a_film_is_cut_where_asked_with_a_warning(finished_run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    made = record(finished_run, tmp_path / "a.gif", games=50, max_seconds=2, warn=said.append)
    assert made.frames == 30
    assert not made.complete
    assert made.seconds == 2
    assert len(said) == 1
    assert "cut after 2 s" in said[0]
    with Image.open(made.path) as image:
        assert image.n_frames == 30


def test_a_gif_is_short_unless_asked(finished_run: Path, tmp_path: Path) -> None:
    made = record(finished_run, tmp_path / "a.gif", games=10**6)
    assert made.seconds == recording.GIF_SECONDS == 30
    assert made.path.stat().st_size < 4e6


def test_the_default_place_is_in_the_run_or_here(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    newest = max((run / "checkpoints").iterdir())
    assert record(run).path == run / "videos" / "catch-6.mp4"
    oldest = min((run / "checkpoints").iterdir())
    assert record(oldest).path == run / "videos" / f"catch-{int(oldest.name)}.mp4"
    agent = Path(shutil.copytree(newest, tmp_path / "agent"))
    monkeypatch.chdir(tmp_path)
    assert record(agent).path == tmp_path / "catch.mp4"
    assert Path("catch.mp4").is_file()


def test_an_existing_film_is_replaced(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    out.write_text("old")
    record(finished_run, out)
    assert out.read_bytes()[4:8] == b"ftyp"
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("a.avi", "must end in .mp4 or .gif"),
        ("a", "must end in"),
        ("nowhere/a.mp4", "cannot write"),
        ("file/a.gif", "cannot write"),
        ("directory.mp4", "is a directory"),
    ],
)
def test_outputs_that_cannot_be_are_refused(
    finished_run: Path, tmp_path: Path, out: str, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory.mp4").mkdir()
    with pytest.raises(UsageError, match=words):
        record(finished_run, tmp_path / out)
    assert {file.name for file in tmp_path.rglob("*")} == {"file", "directory.mp4"}


@pytest.mark.parametrize("options", [{"games": 0}, {"max_seconds": 0.0}])
def test_nothing_to_film_is_refused(finished_run: Path, tmp_path: Path, options: Any) -> None:
    with pytest.raises(UsageError, match="must be"):
        record(finished_run, tmp_path / "a.mp4", **options)


def test_an_agent_of_few_actions_plays_where_all_are_offered(
    breakout_run: Path, tmp_path: Path
) -> None:
    made = record(breakout_run, tmp_path / "a.mp4", protocol="machado")
    played = evaluate(breakout_run, episodes=1, protocol="machado")
    assert (made.score, made.length) == (played.scores[0], played.lengths[0])
    trained = load_agent(breakout_run)
    few = ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert tuple(trained.state["action_names"]) == few
    offered = ("LEFT", "UP", "RIGHT", "NOOP", "FIRE")
    numbers = translation(trained, offered, "machado")(np.arange(4))
    assert [offered[i] for i in numbers] == list(few)


def test_an_action_that_is_not_offered_is_named(tmp_path: Path) -> None:
    train(tiny(game="breakout", protocol="machado", num_envs=2, total_timesteps=64), tmp_path / "r")
    with pytest.raises(UsageError, match=r"the action UP, .* use --protocol machado"):
        record(tmp_path / "r", tmp_path / "a.mp4", protocol="classic")
    with pytest.raises(UsageError, match=r"the action UP, .* use --protocol machado"):
        evaluate(tmp_path / "r", episodes=1, protocol="classic")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("module", ["imageio_ffmpeg", "PIL.ImageFont"])
def test_without_the_extra_one_line_says_what_to_install(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match="pip install imageio-ffmpeg pillow"):
        record(finished_run, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_without_ffmpeg_one_line_says_where_to_name_it(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(UsageError, match="IMAGEIO_FFMPEG_EXE"):
        record(finished_run, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_an_encoder_that_dies_leaves_the_old_film(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nhead -c 100000 > /dev/null\necho 'disk full' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    out = tmp_path / f"a{suffix}"
    out.write_text("old")
    with pytest.raises(RunError, match="disk full"):
        record(finished_run, out)
    assert out.read_text() == "old"
    assert {file.name for file in tmp_path.iterdir()} == {"ffmpeg", out.name}


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_an_interruption_leaves_the_old_film(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    enlarge, calls = recording._enlarge, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return enlarge(*arguments)

    monkeypatch.setattr(recording, "_enlarge", interrupted)
    out = tmp_path / f"a{suffix}"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        record(finished_run, out, games=10)
    assert out.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
