"""Videos of a trained agent: MP4 with every frame of the game, or GIF.

Legend: H x W are the height and width of an image.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from ..backends.device import prepare_process
from ..backends.network import DeviceNetwork, make_network
from ..build import normalized
from ..config import Device
from ..envs import EnvFactory
from ..envs.games import title
from ..errors import RunError, UsageError
from ..session.directory import file_name, is_run
from ..session.files import OTHER_OUT, explained, own_folder, real_path
from ..session.signals import Signals
from .agents import TrainedAgent, load_agent
from .evaluate import MOST_STEPS, Translation, games_seed, play, translation
from .screens import Pixels, ShownEnv, fitting_scale, shown_env
from .video import VideoFormat, find_ffmpeg, open_video, video_format

END_S = 1
"""The last frame of a game is shown so long, so that the final score can be read."""

BAR_HEIGHT = 44
BAR, INK, FAINT_INK = (24, 27, 36), (245, 245, 245), (165, 172, 188)
LARGE, SMALL = 18, 14
"""Font sizes of the two lines of the bar, in pixels."""
PADDING = 10


class Recording(NamedTuple):
    """A video and what it shows.

    `score` is the mean raw score of its games, `length` their agent steps in all; `complete` is
    False if the video was cut before its last game ended. `frames` counts the frames of the video.
    `greedy` is True if the most likely actions were taken instead of sampled ones.
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
    greedy: bool = False


class AgentStep(NamedTuple):
    """One agent step: the action, the value before it, and the result.

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


class Timing(NamedTuple):
    """The part of each step that a video shows, and its speed.

    fps: images per second of the video.  steps_per_second: agent steps in a second of the game.
    every_frame: whether all frames of a step are shown, instead of one image.  every_step: of so
    many steps one is shown.
    """

    fps: float
    steps_per_second: float
    every_frame: bool
    every_step: int


class VideoFrame(NamedTuple):
    """One frame of the video, and the agent step that it shows."""

    pixels: Pixels
    step: AgentStep


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
    make_envs: EnvFactory | None = None,
    network: type[nn.Module] | None = None,
    greedy: bool = False,
) -> Recording:
    """Record whole games, their actions sampled as in training.

    The game is the one that `evaluate` plays with this seed and one episode; the video begins
    where the agent takes over.  out: `.mp4` shows every frame (of Atari 60 a second), `.gif` one
    image per agent step (of Atari 15 a second); by default `videos/{game}-{update}.mp4` in the run,
    or a new file `{game}.mp4` (or -2, ...) in the working directory for an agent that is in no run.
    A file of that name is replaced when the new one is complete; a failure leaves it as it was.
    max_seconds: length at which the video is cut; None: 30 for a GIF, without limit for an MP4.
    make_envs: as for `train`; its environments need a method `render()`, see `tools/screens.py`.
    greedy: take the most likely actions instead of sampled ones.
    UsageError for wrong arguments and outputs that cannot be written; RunError if ffmpeg fails;
    Stopped, a KeyboardInterrupt, after a signal.
    """
    if games < 1:
        raise UsageError(f"games must be at least 1, not {games}")
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"max_seconds must be more than 0, not {max_seconds}")
    if out is not None:
        out = real_path(out)
        video_format(out)
    ffmpeg = find_ffmpeg()
    trained = load_agent(run, device, warn, network)
    path = out if isinstance(out, Path) else _default_output(trained)
    form = video_format(path)
    limit_s = form.max_seconds if max_seconds is None else max_seconds
    # Playing one game uses one core; ffmpeg runs at the same time.
    prepare_process(trained.agent.device.type, threads=1)
    config = trained.config
    protocol = protocol or config.protocol
    env = shown_env(config, games_seed(seed), protocol, make_envs)
    env = env._replace(envs=normalized(env.envs, trained.agent, config, learn=False))
    timing = _timing(env, form)
    max_frames = max(1, round(min(limit_s * timing.fps, sys.maxsize)))
    with closing(env.envs):
        translate = translation(trained, env.envs.action_names, protocol)
        device_network = make_network(trained.agent)
        with Signals() as signals, device_network.frozen_weights():
            steps = _play(device_network, env, translate, seed, signals, greedy)
            frames = _frames(steps, config.game, env.scale, timing, games)
            frames = itertools.islice(frames, max_frames)
            count, last = _write(frames, path, timing.fps, ffmpeg, signals)
    complete = last.ended and len(last.scores) == games
    if not complete and warn is not None:
        warn(f"the video was cut after {limit_s:g} s, before its game ended; see --max-seconds")
    return Recording(
        path,
        config.game,
        protocol,
        seed,
        len(last.scores),
        float(np.mean(last.scores)),
        last.steps,
        complete,
        count,
        count / timing.fps,
        str(trained.path),
        greedy,
    )


def _timing(env: ShownEnv, form: VideoFormat) -> Timing:
    """Return what is shown of each step, and how fast."""
    per_second = env.fps / env.frames_per_step
    if form.every_frame:
        return Timing(env.fps, per_second, every_frame=True, every_step=1)
    every_step = math.ceil(per_second / form.max_fps)
    return Timing(per_second / every_step, per_second, every_frame=False, every_step=every_step)


def _play(
    network: DeviceNetwork,
    env: ShownEnv,
    translate: Translation,
    seed: int,
    signals: Signals,
    greedy: bool,
) -> Iterator[AgentStep]:
    """Play without end, with the random numbers that `evaluate` has for its first environment."""
    ended_scores: tuple[float, ...] = ()
    began = 0
    played = play(network, env.envs, translate, seed, greedy)
    for count, (step, values) in enumerate(played, start=1):
        signals.check()
        ended = bool(step.episodes)
        if count - began == MOST_STEPS and not ended:
            raise RunError(f"the game did not end in {MOST_STEPS:,} steps; use --max-seconds")
        scores = (*ended_scores, step.episodes[0].score if ended else env.score())
        value = float(values)
        screens, action = env.screens(step), env.action()
        yield AgentStep(screens, action, value, scores, count - began, count, ended)
        if ended:
            ended_scores, began = scores, count


def _frames(
    steps: Iterator[AgentStep],
    game: str,
    scale: tuple[int, int] | None,
    timing: Timing,
    games: int,
) -> Iterator[VideoFrame]:
    """Draw the frames of the video, until so many games have ended."""
    paint_bar = _bar_painter(title(game), timing.steps_per_second)
    for step in steps:
        if step.step % timing.every_step and not step.ended:
            continue
        screens = step.screens
        if not timing.every_frame:
            # Some games draw an object in every second frame only: of two frames the brighter
            # pixels are shown, as the agent sees them (D15).
            screens = [np.maximum(screens[-2], screens[-1]) if len(screens) > 1 else screens[-1]]
        enlarged = [_enlarge(screen, scale) for screen in screens]
        bar = paint_bar(step, enlarged[0].shape[1])
        frames = [VideoFrame(np.concatenate([bar, screen]), step) for screen in enlarged]
        yield from frames
        if step.ended:
            yield from [frames[-1]] * round(END_S * timing.fps)
        if step.ended and len(step.scores) == games:
            return


def _enlarge(screen: Pixels, scale: tuple[int, int] | None) -> Pixels:
    """Draw every pixel as a block, so that edges stay sharp.

    Width and height become even, which the color format of MP4 needs: the last row or column is
    repeated.
    """
    width, height = scale or fitting_scale(screen.shape[1])
    blocks = screen.repeat(width, axis=1).repeat(height, axis=0)
    odd = (blocks.shape[0] % 2, blocks.shape[1] % 2)
    return np.pad(blocks, ((0, odd[0]), (0, odd[1]), (0, 0)), "edge") if any(odd) else blocks


def _bar_painter(name: str, steps_per_second: float) -> Callable[[AgentStep, int], Pixels]:
    """Return a function that paints the bar [BAR_HEIGHT, width, 3] of an agent step."""
    from PIL import Image, ImageDraw, ImageFont

    large, small = ImageFont.load_default(LARGE), ImageFont.load_default(SMALL)

    def paint(step: AgentStep, width: int) -> Pixels:
        image = Image.new("RGB", (width, BAR_HEIGHT), BAR)
        draw = ImageDraw.Draw(image)
        played_s = int(step.step / steps_per_second)
        time = f"{played_s // 60}:{played_s % 60:02d}   step {step.step:,}"
        decision = f"{step.action}   value {step.value:+.2f}"
        right, upper, lower = width - PADDING, 22, 38
        draw.text((PADDING, upper), name, INK, large, anchor="ls")
        draw.text((right, upper), f"SCORE {step.scores[-1]:,.0f}", INK, large, anchor="rs")
        draw.text((PADDING, lower), time, FAINT_INK, small, anchor="ls")
        draw.text((right, lower), decision, FAINT_INK, small, anchor="rs")
        return np.asarray(image)

    return paint


def _write(
    frames: Iterator[VideoFrame], path: Path, fps: float, ffmpeg: str, signals: Signals
) -> tuple[int, AgentStep]:
    """Write frames to a video; return their number and the agent step of the last one."""
    count, first = 0, next(frames)
    height, width, _ = first.pixels.shape
    with open_video(path, height, width, fps, ffmpeg, signals) as pipe:
        for frame in itertools.chain([first], frames):
            if frame.pixels.shape != first.pixels.shape:
                raise RunError(
                    f"the screens have different sizes: {list(first.pixels.shape)} and then "
                    f"{list(frame.pixels.shape)}, with the bar; a video needs one size"
                )
            pipe.write(frame.pixels.data)
            count += 1
    return count, frame.step


def _default_output(trained: TrainedAgent) -> Path:
    """Return a path in `videos/` of the agent's run, which is made, or in the working directory.

    There no file is replaced that may not be of this program.
    """
    game, folder = file_name(trained.config.game), trained.path
    run = next((each for each in (folder.parent.parent, folder.parent) if is_run(each)), None)
    if run is None:
        names = itertools.chain([game], (f"{game}-{n}" for n in itertools.count(2)))
        paths = (real_path(f"{name}.mp4") for name in names)
        return next(path for path in paths if not path.exists())
    path = own_folder(run, "videos") / f"{game}-{trained.state['update']}.mp4"
    with explained(f"cannot write {path}", OTHER_OUT):
        path.parent.mkdir(exist_ok=True)
    return path
