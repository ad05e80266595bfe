"""Films of a trained agent at play: MP4 with every frame of the game, or GIF.

Pictures go to ffmpeg one by one while the game is played, so memory does not grow with its
length. Legend: H x W are the height and width of a picture.
"""

import itertools
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.device import prepare_process
from ..backends.network import DeviceNetwork, make_network
from ..build import normalized
from ..config import Device
from ..envs import Step, VecEnv
from ..envs.games import CATCH, require_known, title
from ..errors import RunError, UsageError
from ..session.directory import is_run, require_makers
from ..session.files import TEMPORARY, own_folder, real_path
from ..session.metrics import FRAMES_PER_STEP
from ..session.signals import Signals
from .evaluate import TrainedAgent, Translation, games_seed, load_agent, playing, translation

Pixels = NDArray[np.uint8]
"""A picture [H, W, 3]: red, green, blue."""

FRAMES_PER_SECOND = 60
"""Of the console, and of catch by convention: both then take 15 agent steps a second."""
HOLD_S = 1
"""The picture that ends a game stays this long, or nobody could read the final score."""
GIF_SECONDS = 30.0
"""The longest GIF unless asked for: a page can carry it."""

ATARI_SCALE = (3, 2)
"""Enlargement across and down. The console's pixels are 12/7 times as wide as high; 3/2 is near
that and keeps the film small, and an even number down makes every game's height even, which the
colour format of MP4 needs."""
CATCH_SCALE = (12, 12)

BAR_HEIGHT = 44
BAR, INK, FAINT_INK = (24, 27, 36), (245, 245, 245), (165, 172, 188)
LARGE, SMALL = 18, 14
"""Heights of the two lines of the bar, in pixels."""
PADDING = 10

FILM = "film"
"""The name of a film while it is being made."""


class Format(NamedTuple):
    """How a film of one kind is made; `encoding` is ffmpeg's settings for the stream."""

    fps: int
    max_seconds: float
    encoding: tuple[str, ...]


FORMATS = {
    # Browsers play yuv420p only, and at once only with the index in front (faststart).
    ".mp4": Format(
        FRAMES_PER_SECOND,
        float("inf"),
        (
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-crf",
            "16",
            "-pix_fmt",
            "yuv420p",
            "-movflags",
            "+faststart",
            "-f",
            "mp4",
        ),
    ),
    # At first a lossless film, because the palette is known only when all pictures are.
    ".gif": Format(
        FRAMES_PER_SECOND // FRAMES_PER_STEP,
        GIF_SECONDS,
        ("-c:v", "libx264rgb", "-preset", "ultrafast", "-qp", "0", "-f", "matroska"),
    ),
}


class Recording(NamedTuple):
    """A film and what it shows.

    `score` is the mean raw score of its games, `length` their agent steps in all; `complete` is
    False if the film was cut before its last game ended. `frames` counts the film's pictures.
    """

    path: Path
    game: str
    protocol: str
    seed: int
    games: int
    score: float
    length: int
    complete: bool
    frames: int
    seconds: float
    checkpoint: str


class Stage(NamedTuple):
    """One environment to be filmed.

    After a step, `screens` gives the picture of each frame that it played, `action` the name of
    what was done and `score` the raw score of the game in progress. `scale` is the enlargement
    across and down.
    """

    envs: VecEnv
    screens: Callable[[Step], list[Pixels]]
    action: Callable[[], str]
    score: Callable[[], float]
    scale: tuple[int, int]


class EnvState(NamedTuple):
    """One agent step: what came of it, and what the agent expected and did before it.

    `scores` has the raw score of each game so far, the last of them in progress unless `ended`;
    `step` counts in that game and `steps` in all.
    """

    screens: list[Pixels]
    action: str
    value: float
    scores: tuple[float, ...]
    step: int
    steps: int
    ended: bool


def record(
    run: str | Path,
    out: str | Path | None = None,
    *,
    games: int = 1,
    seed: int = 0,
    protocol: str | None = None,
    max_seconds: float | None = None,
    device: Device = "auto",
    warn: Callable[[str], None] | None = None,
) -> Recording:
    """Film whole games, their actions sampled as in training.

    The game is the one that `evaluate` plays with this seed and one episode; the film begins
    where the agent takes over.  out: `.mp4` shows every frame at 60 a second, `.gif` one picture
    per agent step at 15 a second; by default `videos/{game}-{update}.mp4` in the run, or
    `{game}.mp4` here for an agent that is in no run.  A file of that name is replaced when the
    new one is complete, and is left alone by a failure.  max_seconds: length at which the film is
    cut; None: 30 for a GIF, without limit for an MP4.
    UsageError for what cannot work, before the game begins; RunError if the encoder fails;
    Stopped, a KeyboardInterrupt, if a signal asks for it.
    """
    if games < 1:
        raise UsageError(f"games must be at least 1, not {games}")
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"max_seconds must be more than 0, not {max_seconds}")
    if out is not None:
        out = real_path(out)
        _format(out)
    ffmpeg = _find_ffmpeg()
    trained = load_agent(run, device, warn)
    require_makers(trained.state, None, trained.path)
    path = out if isinstance(out, Path) else _default_output(trained)
    kind = _format(path)
    most_seconds = kind.max_seconds if max_seconds is None else max_seconds
    # One picture at a time is no work for more than one core, and ffmpeg runs beside.
    prepare_process(trained.agent.device.type, threads=1)
    config = trained.config
    protocol = protocol or config.protocol
    stage = _stage(trained, games_seed(seed), protocol)
    try:
        translate = translation(trained, stage.envs.action_names, protocol)
        network = make_network(trained.agent)
        with Signals() as signals, _workplace(path) as folder, network.frozen_weights():
            signals.at_end.append(partial(shutil.rmtree, folder, ignore_errors=True))
            env_states = _play(network, stage, translate, seed, signals)
            film = _film(env_states, config.game, stage.scale, kind.fps, games)
            frames, last = _encode(film, most_seconds, kind, ffmpeg, folder, signals)
            _finish(folder, path, ffmpeg, signals)
    finally:
        stage.envs.close()
    complete = last.ended and len(last.scores) == games
    if not complete and warn is not None:
        warn(f"the film was cut after {most_seconds:g} s, before its game ended; see --max-seconds")
    return Recording(
        path,
        config.game,
        protocol,
        seed,
        len(last.scores),
        float(np.mean(last.scores)),
        last.steps,
        complete,
        frames,
        frames / kind.fps,
        str(trained.path),
    )


def _stage(trained: TrainedAgent, games_seed: int, protocol: str) -> Stage:
    """The environment of an agent's game, and how to look at it."""
    config = trained.config
    if config.game == CATCH:
        return _catch_stage(games_seed)
    require_known(config.game)
    from ..envs.atari.reference import ReferenceAtari

    # As the engine plays, because the agent has learned with the engine.
    envs = ReferenceAtari(
        config.game,
        1,
        games_seed,
        protocol,
        variant="engine",
        action_space=config.action_space,
        observation=config.observation,
        num_frames=config.num_frames,
    )
    return Stage(
        normalized(envs, trained.agent, config, learn=False),
        lambda _: envs.screens[0],
        lambda: envs.played[0],
        lambda: envs.scores[0],
        ATARI_SCALE,
    )


def _catch_stage(games_seed: int) -> Stage:
    """Catch has no screen: its observation is shown, for as long as a step of Atari takes."""
    from ..envs.catch import Catch

    envs = Catch(1, games_seed)

    def screens(step: Step) -> list[Pixels]:
        obs = step.final_obs if step.episodes else step.obs  # catch fills it for every end
        return [np.repeat(obs[0, -1, :, :, np.newaxis], 3, axis=2)] * FRAMES_PER_STEP

    return Stage(envs, screens, lambda: envs.played[0], lambda: envs.scores[0], CATCH_SCALE)


def _play(
    network: DeviceNetwork, stage: Stage, translate: Translation, seed: int, signals: Signals
) -> Iterator[EnvState]:
    """Play on for ever, with the draws that `evaluate` takes for its first environment."""
    ended_scores: tuple[float, ...] = ()
    began = 0
    steps = playing(network, stage.envs, translate, seed)
    for count, (step, values) in enumerate(steps, start=1):
        signals.check()
        ended = bool(step.episodes)
        score = step.episodes[0].score if ended else stage.score()
        scores = (*ended_scores, score)
        yield EnvState(
            stage.screens(step),
            stage.action(),
            float(values),
            scores,
            count - began,
            count,
            ended,
        )
        if ended:
            ended_scores, began = scores, count


def _film(
    env_states: Iterator[EnvState], game: str, scale: tuple[int, int], fps: int, games: int
) -> Iterator[tuple[Pixels, EnvState]]:
    """The pictures of the film, each with the moment that it shows."""
    bar = _bar_painter(title(game))
    for moment in env_states:
        screens = moment.screens
        if fps < FRAMES_PER_SECOND:
            # Some games draw an object in every other frame only: of two frames the brighter
            # pixels are shown, as the agent sees them (D15).
            screens = [np.maximum(screens[-2], screens[-1]) if len(screens) > 1 else screens[-1]]
        pictures = [_enlarge(screen, scale) for screen in screens]
        painted_bar = bar(moment, pictures[0].shape[1])
        pictures = [np.concatenate([painted_bar, picture]) for picture in pictures]
        yield from ((picture, moment) for picture in pictures)
        if moment.ended:
            yield from [(pictures[-1], moment)] * (HOLD_S * fps)
        if moment.ended and len(moment.scores) == games:
            return


def _enlarge(screen: Pixels, scale: tuple[int, int]) -> Pixels:
    """Every pixel as a block: sharp edges, as the game was drawn."""
    across, down = scale
    return screen.repeat(across, axis=1).repeat(down, axis=0)


def _bar_painter(name: str) -> Callable[[EnvState, int], Pixels]:
    """A function that paints the bar [BAR_HEIGHT, width, 3] of a moment."""
    from PIL import Image, ImageDraw, ImageFont

    large, small = ImageFont.load_default(LARGE), ImageFont.load_default(SMALL)

    def paint(moment: EnvState, width: int) -> Pixels:
        image = Image.new("RGB", (width, BAR_HEIGHT), BAR)
        draw = ImageDraw.Draw(image)
        played_s = moment.step * FRAMES_PER_STEP // FRAMES_PER_SECOND
        time = f"{played_s // 60}:{played_s % 60:02d}   step {moment.step:,}"
        thought = f"{moment.action}   value {moment.value:+.2f}"
        right, upper, lower = width - PADDING, 22, 38
        draw.text((PADDING, upper), name, INK, large, anchor="ls")
        draw.text((right, upper), f"SCORE {moment.scores[-1]:,.0f}", INK, large, anchor="rs")
        draw.text((PADDING, lower), time, FAINT_INK, small, anchor="ls")
        draw.text((right, lower), thought, FAINT_INK, small, anchor="rs")
        return np.asarray(image)

    return paint


def _encode(
    film: Iterator[tuple[Pixels, EnvState]],
    max_seconds: float,
    kind: Format,
    ffmpeg: str,
    folder: Path,
    signals: Signals,
) -> tuple[int, EnvState]:
    """Send a film to ffmpeg until it ends or is cut; the number of pictures, the last moment."""
    first = next(film)
    height, width, _ = first[0].shape
    source = (
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        str(kind.fps),
        "-i",
        "-",
    )
    most = None if math.isinf(max_seconds) else max(1, round(max_seconds * kind.fps))
    most = None if most is None or most > sys.maxsize else most
    count, last = 0, first[1]
    command = (ffmpeg, *source, *kind.encoding, str(folder / FILM))
    with _encoder(command, folder, signals) as pipe:
        for picture, moment in itertools.islice(itertools.chain([first], film), most):
            pipe.write(picture.data)
            count, last = count + 1, moment
    return count, last


def _finish(folder: Path, path: Path, ffmpeg: str, signals: Signals) -> None:
    """Turn the film in `folder` into what the name of `path` asks for, and put it there."""
    film = folder / FILM
    if path.suffix.lower() == ".gif":
        palette, film = folder / "palette.png", folder / "gif"
        source = (ffmpeg, "-i", str(folder / FILM))
        command = (*source, "-vf", "palettegen", "-update", "1", str(palette))
        with _encoder(command, folder, signals):
            pass
        # Atari has at most 128 colours, so that nothing needs to be dithered.
        filters = "paletteuse=dither=none:diff_mode=rectangle"
        use = (*source, "-i", str(palette), "-lavfi", filters, "-f", "gif", str(film))
        with _encoder(use, folder, signals):
            pass
    signals.check()
    try:
        film.replace(path)
    except OSError as error:
        raise _not_writable(path, error) from error


@contextmanager
def _encoder(command: tuple[str, ...], folder: Path, signals: Signals) -> Iterator[IO[bytes]]:
    """Run ffmpeg; what is written to the given pipe is its standard input.

    It ends with the block, at once if that fails. RunError with its last words if it fails.
    """
    log = folder / "log"
    quiet = ("-hide_banner", "-loglevel", "error", "-y")
    with log.open("wb") as errors:
        # In a session of its own Ctrl-C does not reach it: it is for us to stop it.
        process = subprocess.Popen(
            (command[0], *quiet, *command[1:]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    assert process.stdin is not None
    signals.at_end.append(process.kill)
    try:
        yield process.stdin
        process.stdin.close()
        process.wait()
    except BrokenPipeError:  # it has stopped reading, and its log says why
        process.wait()
    except BaseException:
        process.kill()
        raise
    finally:
        with suppress(OSError):
            process.stdin.close()
        process.wait()
        signals.at_end.remove(process.kill)
    if process.returncode != 0:
        words = log.read_text(errors="replace").strip().splitlines()
        reason = words[-1] if words else f"exit code {process.returncode}"
        raise RunError(f"ffmpeg could not write the film: {reason}")


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, on its disk; UsageError if there can be none."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file")
    try:
        prefix, suffix = TEMPORARY.split("*")
        folder = tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=path.parent)
    except OSError as error:
        raise _not_writable(path, error) from error
    with folder as name:
        yield Path(name)


def _not_writable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write {path}: {error.strerror}; choose another --out")


def _find_ffmpeg() -> str:
    """The path of ffmpeg; UsageError if it or what the bar is painted with is missing."""
    try:
        import imageio_ffmpeg
        import PIL.ImageFont  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "recording needs imageio-ffmpeg and Pillow: pip install imageio-ffmpeg pillow"
        ) from error
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise UsageError(
            "recording needs ffmpeg, and imageio-ffmpeg brought none for this machine; install "
            "it and name it in the variable IMAGEIO_FFMPEG_EXE"
        ) from error


def _format(path: Path) -> Format:
    """The format that a name asks for."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"cannot record to {path}: the name must end in {' or '.join(FORMATS)}")
    return kind


def _default_output(trained: TrainedAgent) -> Path:
    """`videos/` of the agent's run, which is made; here for an agent that is in no run."""
    game, run = trained.config.game, trained.path.parent.parent
    if not is_run(run):
        return real_path(f"{game}.mp4")
    path = own_folder(run, "videos") / f"{game}-{trained.state['update']}.mp4"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error
    return path
