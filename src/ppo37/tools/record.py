"""Videos of a trained agent: MP4 with every frame of the game, or GIF.

Legend: H x W are the height and width of an image.
"""

import itertools
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
from ..config import CATCH, Device
from ..envs import EnvFactory, Step, VecEnv
from ..envs.games import require_known, title
from ..errors import UsageError
from ..session.directory import is_run
from ..session.files import OTHER_OUT, explained, own_folder, real_path
from ..session.metrics import FRAMES_PER_STEP
from ..session.signals import Signals
from .evaluate import TrainedAgent, Translation, games_seed, load_agent, play, translation
from .video import FRAMES_PER_SECOND, Pixels, find_ffmpeg, open_video, video_format

END_S = 1
"""The last frame of a game is shown so long, so that the final score can be read."""

ATARI_SCALE = (3, 2)
"""Enlargement in width and height. The console's pixels are 12/7 times as wide as high; 3/2 is
near that and keeps the video small. An even factor makes every game's height even, which the
color format of MP4 needs."""
CATCH_SCALE = (12, 12)

BAR_HEIGHT = 44
BAR, INK, FAINT_INK = (24, 27, 36), (245, 245, 245), (165, 172, 188)
LARGE, SMALL = 18, 14
"""Font sizes of the two lines of the bar, in pixels."""
PADDING = 10


class Recording(NamedTuple):
    """A video and what it shows.

    `score` is the mean raw score of its games, `length` their agent steps in all; `complete` is
    False if the video was cut before its last game ended. `frames` counts the frames of the video.
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


class RecordedEnv(NamedTuple):
    """One environment, and how to show it.

    After a step, `screens` returns the image of each frame that it played, `action` the name of
    the action and `score` the raw score of the game in progress. `scale` is the enlargement in
    width and height.
    """

    envs: VecEnv
    screens: Callable[[Step], list[Pixels]]
    action: Callable[[], str]
    score: Callable[[], float]
    scale: tuple[int, int]


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
) -> Recording:
    """Record whole games, their actions sampled as in training.

    The game is the one that `evaluate` plays with this seed and one episode; the video begins
    where the agent takes over.  out: `.mp4` shows every frame at 60 a second, `.gif` one image
    per agent step at 15 a second; by default `videos/{game}-{update}.mp4` in the run, or
    `{game}.mp4` in the working directory for an agent that is in no run.  A file of that name is
    replaced when the new one is complete; a failure leaves it as it was.  max_seconds: length at
    which the video is cut; None: 30 for a GIF, without limit for an MP4.
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
    max_frames = max(1, round(min(limit_s * form.fps, sys.maxsize)))
    # Playing one game uses one core; ffmpeg runs at the same time.
    prepare_process(trained.agent.device.type, threads=1)
    config = trained.config
    protocol = protocol or config.protocol
    env = _make_env(trained, games_seed(seed), protocol)
    with closing(env.envs):
        translate = translation(trained, env.envs.action_names, protocol)
        device_network = make_network(trained.agent)
        with Signals() as signals, device_network.frozen_weights():
            steps = _play(device_network, env, translate, seed, signals)
            frames = _frames(steps, config.game, env.scale, form.fps, games)
            frames = itertools.islice(frames, max_frames)
            count, last = _write(frames, path, ffmpeg, signals)
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
        count / form.fps,
        str(trained.path),
    )


def _make_env(trained: TrainedAgent, games_seed: int, protocol: str) -> RecordedEnv:
    """Make the environment of an agent's game."""
    config = trained.config
    if config.game == CATCH:
        return _make_catch(games_seed)
    require_known(config.game)
    from ..envs.atari.reference import ReferenceAtari

    # The engine's variant of the rules, because the agent has learned with the engine.
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
    return RecordedEnv(
        normalized(envs, trained.agent, config, learn=False),
        lambda _: envs.screens[0],
        lambda: envs.played[0],
        lambda: envs.scores[0],
        ATARI_SCALE,
    )


def _make_catch(games_seed: int) -> RecordedEnv:
    """Make catch. It has no screen: its observation is shown as long as a step of Atari takes."""
    from ..envs.catch import Catch

    envs = Catch(1, games_seed)

    def screens(step: Step) -> list[Pixels]:
        obs = step.final_obs if step.episodes else step.obs  # catch fills it for every end
        return [np.repeat(obs[0, -1, :, :, np.newaxis], 3, axis=2)] * FRAMES_PER_STEP

    return RecordedEnv(envs, screens, lambda: envs.played[0], lambda: envs.scores[0], CATCH_SCALE)


def _play(
    network: DeviceNetwork, env: RecordedEnv, translate: Translation, seed: int, signals: Signals
) -> Iterator[AgentStep]:
    """Play without end, with the random numbers that `evaluate` has for its first environment."""
    ended_scores: tuple[float, ...] = ()
    began = 0
    for count, (step, values) in enumerate(play(network, env.envs, translate, seed), start=1):
        signals.check()
        ended = bool(step.episodes)
        scores = (*ended_scores, step.episodes[0].score if ended else env.score())
        value = float(values)
        screens, action = env.screens(step), env.action()
        yield AgentStep(screens, action, value, scores, count - began, count, ended)
        if ended:
            ended_scores, began = scores, count


def _frames(
    steps: Iterator[AgentStep], game: str, scale: tuple[int, int], fps: int, games: int
) -> Iterator[VideoFrame]:
    """Draw the frames of the video, until so many games have ended."""
    paint_bar = _bar_painter(title(game))
    for step in steps:
        screens = step.screens
        if fps < FRAMES_PER_SECOND:
            # Some games draw an object in every second frame only: of two frames the brighter
            # pixels are shown, as the agent sees them (D15).
            screens = [np.maximum(screens[-2], screens[-1]) if len(screens) > 1 else screens[-1]]
        enlarged = [_enlarge(screen, scale) for screen in screens]
        bar = paint_bar(step, enlarged[0].shape[1])
        frames = [VideoFrame(np.concatenate([bar, screen]), step) for screen in enlarged]
        yield from frames
        if step.ended:
            yield from [frames[-1]] * (END_S * fps)
        if step.ended and len(step.scores) == games:
            return


def _enlarge(screen: Pixels, scale: tuple[int, int]) -> Pixels:
    """Draw every pixel as a block, so that edges stay sharp."""
    width, height = scale
    return screen.repeat(width, axis=1).repeat(height, axis=0)


def _bar_painter(name: str) -> Callable[[AgentStep, int], Pixels]:
    """Return a function that paints the bar [BAR_HEIGHT, width, 3] of an agent step."""
    from PIL import Image, ImageDraw, ImageFont

    large, small = ImageFont.load_default(LARGE), ImageFont.load_default(SMALL)

    def paint(step: AgentStep, width: int) -> Pixels:
        image = Image.new("RGB", (width, BAR_HEIGHT), BAR)
        draw = ImageDraw.Draw(image)
        played_s = step.step * FRAMES_PER_STEP // FRAMES_PER_SECOND
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
    frames: Iterator[VideoFrame], path: Path, ffmpeg: str, signals: Signals
) -> tuple[int, AgentStep]:
    """Write frames to a video; return their number and the agent step of the last one."""
    count, first = 0, next(frames)
    height, width, _ = first.pixels.shape
    with open_video(path, height, width, ffmpeg, signals) as pipe:
        for frame in itertools.chain([first], frames):
            pipe.write(frame.pixels.data)
            count += 1
    return count, frame.step


def _default_output(trained: TrainedAgent) -> Path:
    """Return a path in `videos/` of the agent's run, which is made, or in the working directory."""
    game, run = trained.config.game, trained.path.parent.parent
    if not is_run(run):
        return real_path(f"{game}.mp4")
    path = own_folder(run, "videos") / f"{game}-{trained.state['update']}.mp4"
    with explained(f"cannot write {path}", OTHER_OUT):
        path.parent.mkdir(exist_ok=True)
    return path
