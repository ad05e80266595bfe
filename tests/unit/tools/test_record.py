"""Videos: their frames are decoded and compared, and a failure leaves no files."""

import re
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from conftest import run_command, tiny

from ppo37 import evaluate, load_agent, train
from ppo37.envs import Step
from ppo37.envs.catch import CELLS, Catch
from ppo37.errors import RunError, UsageError
from ppo37.session import checkpoint
from ppo37.session.directory import file_name
from ppo37.tools import record as recording
from ppo37.tools import video
from ppo37.tools.evaluate import translation
from ppo37.tools.record import BAR_HEIGHT, AgentStep, Recording, record

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
Image = pytest.importorskip("PIL.Image")


class Recorded(NamedTuple):
    """A video and the agent steps that it shows."""

    made: Recording
    steps: list[AgentStep]


def record_steps(run: Path, out: Path, **options: Any) -> Recorded:
    """Record a video, and keep its agent steps."""
    steps: list[AgentStep] = []
    play = recording._play

    def observed(*arguments: Any) -> Iterator[AgentStep]:
        for step in play(*arguments):
            steps.append(step)
            yield step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "_play", observed)
        return Recorded(record(run, out, **options), steps)


@pytest.fixture(scope="module")
def breakout_mp4(breakout_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record_steps(breakout_run, tmp_path_factory.mktemp("video") / "breakout.mp4")


@pytest.fixture(scope="module")
def breakout_gif(breakout_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record_steps(breakout_run, tmp_path_factory.mktemp("video") / "breakout.gif", seed=1)


def decode(path: Path) -> tuple[dict[str, Any], Iterator[np.ndarray]]:
    """Return the metadata of a video, and its frames."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, (np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader)


def blocks(frame: np.ndarray, across: int, down: int) -> np.ndarray:
    """Split the image below the bar into blocks that show one pixel: [H, down, W, across, 3]."""
    height, width, _ = frame[BAR_HEIGHT:].shape
    split = frame[BAR_HEIGHT:].reshape(height // down, down, width // across, across, 3)
    return split.astype(int)


def test_an_mp4_shows_every_frame_at_60_a_second(breakout_mp4: Recorded) -> None:
    made, steps = breakout_mp4.made, breakout_mp4.steps
    meta, frames = decode(made.path)
    screens = [screen for step in steps for screen in step.screens]
    assert meta["fps"] == 60
    assert meta["codec"] == "h264"
    assert "yuv420p" in meta["pix_fmt"]
    assert meta["size"] == (480, 420 + BAR_HEIGHT)
    assert made.frames == len(screens) + 60  # the last one is shown for a second
    assert made.seconds == made.frames / 60
    assert made.length == len(steps)
    for frame, screen in zip(frames, [*screens, *[screens[-1]] * 60], strict=True):
        centers = blocks(frame, 3, 2)[:, 1, :, 1]
        assert np.abs(centers - screen).mean() < 2


def test_the_index_is_at_the_start_of_an_mp4(breakout_mp4: Recorded) -> None:
    content = breakout_mp4.made.path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_video_has_the_colors_of_the_game(breakout_mp4: Recorded) -> None:
    _, frames = decode(breakout_mp4.made.path)
    bricks = next(frames)[BAR_HEIGHT + 2 * 57 : BAR_HEIGHT + 2 * 93, 30:450].astype(int)
    red, green, blue = np.moveaxis(bricks, -1, 0)
    assert (red - blue > 60).mean() > 0.2, "red and yellow rows"
    assert (blue - red > 60).mean() > 0.1, "blue row"
    assert (green - blue > 30).mean() > 0.1, "green row"


def test_the_game_is_the_one_that_evaluate_plays(
    breakout_run: Path, breakout_mp4: Recorded, breakout_gif: Recorded
) -> None:
    for made in (breakout_mp4.made, breakout_gif.made):
        played = evaluate(breakout_run, episodes=1, seed=made.seed)
        assert [made.score] == played.scores
        assert [made.length] == played.lengths
        assert made.complete


def test_a_gif_shows_each_step_as_the_agent_sees_it(breakout_gif: Recorded) -> None:
    made, steps = breakout_gif.made, breakout_gif.steps
    screens = [np.maximum(*step.screens[-2:]) for step in steps if len(step.screens) > 1]
    with Image.open(made.path) as image:
        assert image.format == "GIF"
        assert image.info["loop"] == 0
        assert image.size == (480, 420 + BAR_HEIGHT)
        assert image.n_frames == made.frames
        assert len(steps) + 15 == made.frames
        seconds = 0.0
        for number in range(image.n_frames):
            image.seek(number)
            seconds += image.info["duration"] / 1000
            if number >= len(screens):
                continue
            shown = blocks(np.asarray(image.convert("RGB")), 3, 2)
            assert np.abs(shown - screens[number][:, None, :, None]).max() <= 4, number
    assert seconds == pytest.approx(made.seconds, abs=0.1)
    assert made.path.stat().st_size < 1e6


def test_the_bar_shows_the_state_of_the_game(breakout_mp4: Recorded) -> None:
    steps = breakout_mp4.steps
    _, frames = decode(breakout_mp4.made.path)
    bars = [frame[:BAR_HEIGHT] for frame in frames]
    background = np.abs(bars[0].astype(int) - recording.BAR).max(axis=2) < 30
    assert 0.5 < background.mean() < 0.97, "text on a plain background"
    first_of_second_step = len(steps[0].screens)
    assert np.abs(bars[0].astype(int) - bars[first_of_second_step]).max() > 60
    paint = recording._bar_painter("Breakout", 15)
    example = steps[10]
    parts = {
        "score": example._replace(scores=(98765.0,)),
        "step": example._replace(step=54321),
        "action": example._replace(action="UPRIGHTFIRE"),
        "value": example._replace(value=-9.87),
    }
    painted = {name: paint(step, 480).tobytes() for name, step in parts.items()}
    assert len({*painted.values(), paint(example, 480).tobytes()}) == 5, "each part is shown"


def test_the_score_rises_during_the_game(breakout_mp4: Recorded) -> None:
    scores = [step.scores[-1] for step in breakout_mp4.steps]
    assert scores == sorted(scores)
    assert scores[-1] == breakout_mp4.made.score
    assert [step.step for step in breakout_mp4.steps] == list(range(1, len(scores) + 1))


def test_catch_shows_its_observation_15_times_a_second(finished_run: Path, tmp_path: Path) -> None:
    made, steps = record_steps(finished_run, tmp_path / "catch.mp4", games=3)
    ends = [step for step in steps if step.ended]
    assert len(ends) == made.games == 3
    assert made.length == len(steps) == sum(step.step for step in ends)
    assert made.score == pytest.approx(np.mean([step.scores[-1] for step in ends]))
    played = evaluate(finished_run, episodes=1, seed=0)
    assert (ends[0].scores[0], ends[0].step) == (played.scores[0], played.lengths[0])
    meta, frames = decode(made.path)
    assert meta["size"] == (468, 468 + BAR_HEIGHT)
    assert meta["fps"] == 15
    shown = list(frames)
    assert len(shown) == made.frames == len(steps) + 3 * 15
    last = shown[ends[0].step - 1][BAR_HEIGHT:].astype(int)
    cell = 468 // CELLS
    board = last[cell // 2 :: cell, cell // 2 :: cell].mean(axis=2)
    assert np.abs(last - last.mean(axis=2, keepdims=True)).max() < 12, "gray"
    assert set(np.flatnonzero(board.max(axis=1) > 64)) == {CELLS - 1}, "the ball has landed"


class Rendered(Catch):
    """Catch with wide screens of its own, whose brightness is the number of the step."""

    metadata: ClassVar = {"render_fps": 100}
    width = 99

    def reset(self) -> np.ndarray:
        self.count = 0
        return super().reset()

    def step(self, actions: np.ndarray) -> Step:
        self.count += 1
        return super().step(actions)

    def render(self) -> list[np.ndarray]:
        return [np.full((51, self.width, 3), self.count, np.uint8)]


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of environments with screens of their own."""
    path = tmp_path_factory.mktemp("own") / "run"
    train(tiny(game="own", total_timesteps=64), path, make_envs=Rendered)
    return path


@pytest.mark.parametrize(("suffix", "fps", "every"), [(".mp4", 100, 1), (".gif", 50, 2)])
def test_an_environment_is_shown_by_its_own_render(
    own_run: Path, tmp_path: Path, suffix: str, fps: int, every: int
) -> None:
    out = tmp_path / f"own{suffix}"
    made, steps = record_steps(own_run, out, games=2, make_envs=Rendered, greedy=True)
    played = evaluate(own_run, episodes=1, make_envs=Rendered, greedy=True)
    assert made.greedy
    ends = [step for step in steps if step.ended]
    assert [ends[0].scores[0], ends[0].step] == [played.scores[0], played.lengths[0]]
    # The environment has restarted after the last step, so the screen before it stays.
    expected: list[int] = []
    for step in (step for step in steps if step.step % every == 0 or step.ended):
        expected += [step.steps - step.ended] * (1 + fps * step.ended)
    meta, frames = decode(out)
    assert meta["fps"] == fps
    assert meta["size"] == (496, 256 + BAR_HEIGHT), "5 x (99, 51), and one pixel to be even"
    levels = [frame[BAR_HEIGHT:].mean() for frame in frames]
    assert len(levels) == made.frames == len(expected)
    assert np.abs(np.array(levels) - expected).max() < 2


def test_environments_without_screens_get_one_line(own_run: Path, tmp_path: Path) -> None:
    class Blind(Rendered):
        render = None

    class Wrong(Rendered):
        def render(self) -> Any:
            return [np.zeros((51, 99), np.uint8)]

    class Growing(Rendered):
        def render(self) -> Any:
            return [np.zeros((51 + 2 * self.count, 99, 3), np.uint8)]

    for make_envs, error, message in (
        (Blind, UsageError, r"Blind has no screens: give it a method render\(\)"),
        (Wrong, RunError, r"render of Wrong gave ndarray uint8 \[51, 99\]; it has to be"),
        (Growing, RunError, "the screens have different sizes"),
    ):
        with pytest.raises(error, match=message):
            record(own_run, tmp_path / "a.mp4", make_envs=make_envs)
    with pytest.raises(UsageError, match="only you may name"):
        record(own_run, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_the_command_records_several_greedy_games(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.gif"
    arguments = ("record", str(finished_run), "--out", str(out), "--games", "3", "--greedy")
    code, path, err = run_command(capsys, *arguments)
    assert (code, path.strip()) == (0, str(out))
    assert re.search(r"3 games: mean score \S+ after \d+ agent steps, greedy actions", err)
    code, _, err = run_command(capsys, *arguments[:4], "--games", "0")
    assert (code, "--games must be at least 1, not 0" in err) == (2, True)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(finished_run: Path, tmp_path: Path) -> None:
    def peak(seconds: float) -> int:
        tracemalloc.start()
        try:
            made = record(finished_run, tmp_path / "f.mp4", games=10**6, max_seconds=seconds)
            assert made.frames == 15 * seconds
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # imports and caches
    frame = 3 * 468 * (468 + BAR_HEIGHT)
    assert peak(32) - peak(4) < 2 * frame, "420 more frames were written"


def test_a_video_is_cut_at_the_limit_with_a_warning(finished_run: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    made = record(finished_run, tmp_path / "a.gif", games=50, max_seconds=2, warn=warnings.append)
    assert made.frames == 30
    assert not made.complete
    assert made.seconds == 2
    assert len(warnings) == 1
    assert "cut after 2 s" in warnings[0]
    with Image.open(made.path) as image:
        assert image.n_frames == 30


def test_a_gif_has_a_limit_by_default(finished_run: Path, tmp_path: Path) -> None:
    made = record(finished_run, tmp_path / "a.gif", games=10**6)
    assert made.seconds == video.GIF_SECONDS == 30
    assert made.path.stat().st_size < 4e6


def test_the_default_path_is_in_the_run_or_the_working_directory(
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
    assert record(agent).path == tmp_path / "catch-2.mp4"
    best = Path(shutil.copytree(newest, run / "best"))
    assert record(best).path == run / "videos" / "catch-6.mp4"


def test_the_game_of_a_stranger_is_no_path(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    saved, _ = checkpoint.load_newest(run / "checkpoints")
    precious = tmp_path / "precious.mp4"
    precious.write_text("mine")
    for game in (f"{tmp_path}/precious", "../../../x", "a\nb"):
        state = {**saved.state, "config": {**saved.state["config"], "game": game}}
        folder = checkpoint.save(saved.path, saved.model, saved.optimizer, state, saved.actions)
        with pytest.raises(UsageError, match="is not the name of a game"):
            record(folder)
    assert precious.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"precious.mp4", "run"}
    assert not (run / "videos").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MinAtar/Breakout-v1", "MinAtar-Breakout-v1"),
        ("../../x", "-.-..-x"),
        ("..", "-"),
        ("/a b:\u00e9", "-a-b--"),
        (".hidden", "-hidden"),
        ("x" * 999, "x" * 80),
    ],
)
def test_texts_become_names_of_files(text: str, name: str) -> None:
    assert file_name(text) == name


def test_an_existing_video_is_replaced(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    out.write_text("old")
    record(finished_run, out)
    assert out.read_bytes()[4:8] == b"ftyp"
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.avi", "must end in .mp4 or .gif"),
        ("a", "must end in"),
        ("nowhere/a.mp4", "cannot write"),
        ("file/a.gif", "cannot write"),
        ("directory.mp4", "is a directory"),
    ],
)
def test_impossible_outputs_are_refused(
    finished_run: Path, tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory.mp4").mkdir()
    with pytest.raises(UsageError, match=message):
        record(finished_run, tmp_path / out)
    assert {file.name for file in tmp_path.rglob("*")} == {"file", "directory.mp4"}


@pytest.mark.parametrize("options", [{"games": 0}, {"max_seconds": 0.0}])
def test_an_empty_video_is_refused(finished_run: Path, tmp_path: Path, options: Any) -> None:
    with pytest.raises(UsageError, match="must be"):
        record(finished_run, tmp_path / "a.mp4", **options)


@pytest.mark.slow
def test_an_agent_with_few_actions_plays_where_all_are_offered(
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
def test_a_missing_package_gives_one_line_with_the_command_to_install(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"pip install 'ppo37\[video\]'"):
        record(finished_run, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_a_missing_ffmpeg_gives_one_line_with_the_variable_to_set(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(UsageError, match="IMAGEIO_FFMPEG_EXE"):
        record(finished_run, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reads", ["head -c 100000", "cat"], ids=["stops early", "reads all"])
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_failed_ffmpeg_gives_one_line_and_leaves_the_old_video(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, reads: str
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text(f"#!/bin/sh\n{reads} > /dev/null\necho 'disk full' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    out = tmp_path / f"a{suffix}"
    out.write_text("old")
    with pytest.raises(RunError, match=r"^ffmpeg could not write the video: disk full$"):
        record(finished_run, out)
    assert out.read_text() == "old"
    assert {file.name for file in tmp_path.iterdir()} == {"ffmpeg", out.name}


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_an_interruption_leaves_the_old_video(
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


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("#!/bin/sh\ncat > /dev/null\n", RunError, "ffmpeg could not write the video: it wrote"),
        ("no program", UsageError, "cannot run .*ffmpeg: Exec format error; set IMAGEIO_FFMPEG"),
    ],
)
def test_an_ffmpeg_that_is_none_gives_one_line(
    script: str,
    error: type[Exception],
    message: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text(script)
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    with pytest.raises(error, match=message):
        record(finished_run, tmp_path / "video.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["ffmpeg"]
