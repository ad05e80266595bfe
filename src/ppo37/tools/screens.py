"""How an environment is shown: its screens, the action and the score, for videos and `make_env`.

Atari and catch are shown as their games look. Any other `VecEnv` is shown if it has a method
`render()` that returns the current image [H, W, 3] uint8 of each environment; its optional
`metadata["render_fps"]` is its speed in agent steps a second.

Legend: H x W are the height and width of an image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..build import make_factory
from ..config import CATCH, Config
from ..envs import EnvFactory, Step, VecEnv
from ..envs.contract import Wrapper
from ..envs.games import require_known
from ..envs.source import EnvSource, source_of
from ..errors import RunError, UsageError

Pixels = NDArray[np.uint8]
"""An image [H, W, 3]: red, green, blue."""

ATARI_SCALE = (3, 2)
"""Enlargement in width and height. The console's pixels are 12/7 times as wide as high; 3/2 is
near that and keeps the video small."""
ATARI_FPS = 60
DEFAULT_FPS, MOST_FPS = 30, 1000
"""The speed of environments that do not name theirs, and the highest that is believed."""
VIDEO_WIDTH = 480
"""Images are enlarged to about this width, in pixels."""
MOST_NUMBERS = 3
"""Real numbers of an action that its name shows."""


class ShownEnv(NamedTuple):
    """One environment, and how it is shown.

    render: returns the current image.  screens: returns the image of each frame of the last step,
    in the old episode if it has ended.  action: returns the name of the last action.  score:
    returns the raw score of the game in progress.  scale: enlargement in width and height; None for
    one that fits the video.  fps: frames per second, of which each step has `frames_per_step`.
    """

    envs: VecEnv
    render: Callable[[], Pixels]
    screens: Callable[[Step], list[Pixels]]
    action: Callable[[], str]
    score: Callable[[], float]
    scale: tuple[int, int] | None
    fps: float
    frames_per_step: int = 1


def shown_env(
    config: Config, seed: int, protocol: str | None = None, make_envs: EnvFactory | None = None
) -> ShownEnv:
    """Make one environment that can be shown; UsageError if its kind has no screens.

    protocol, make_envs: as for `build.make_factory`.  Rewards are raw.
    """
    if make_envs is None and config.env is None:
        if config.game == CATCH:
            return _catch(seed)
        require_known(config.game)
        return _atari(config, seed, protocol or config.protocol)
    source = source_of(config, make_envs)
    source = source.rendered() if isinstance(source, EnvSource) else source
    envs = make_factory(with_raw_rewards(config), 1, protocol, make_envs=source)(1, seed)
    try:
        return _rendered(envs)
    except BaseException:
        envs.close()
        raise


def with_raw_rewards(config: Config) -> Config:
    """Return the configuration of one environment whose rewards are not clipped."""
    return dataclasses.replace(config, clip_rewards=False, env_workers=0)


def _atari(config: Config, seed: int, protocol: str) -> ShownEnv:
    """Make an Atari game with color screens."""
    from ..envs.atari.reference import ReferenceAtari

    # The engine's variant of the rules, because the agent has learned with the engine.
    envs = ReferenceAtari(
        config.game,
        1,
        seed,
        protocol,
        variant="engine",
        action_space=config.action_space,
        observation=config.observation,
        num_frames=config.num_frames,
        clip_rewards=False,
        modes=config.modes,
        difficulty=config.difficulty,
    )
    return ShownEnv(
        envs,
        lambda: envs.render()[0],
        lambda _: envs.screens[0],
        lambda: envs.played[0],
        lambda: envs.scores[0],
        ATARI_SCALE,
        ATARI_FPS,
        config.frames_per_step,
    )


def _catch(seed: int) -> ShownEnv:
    """Make catch, whose observation is its screen."""
    from ..envs.catch import FPS, Catch, as_images

    envs = Catch(1, seed)

    def screens(step: Step) -> list[Pixels]:
        return as_images(step.final_obs if step.episodes else step.obs)  # filled for every end

    return ShownEnv(
        envs,
        lambda: envs.render()[0],
        screens,
        lambda: envs.played[0],
        lambda: envs.scores[0],
        None,
        FPS,
    )


class _Rendered(Wrapper):
    """One environment with `render()`, and what is shown of its last step."""

    def __init__(self, envs: VecEnv) -> None:
        super().__init__(envs)
        self._inner: Any = envs
        while isinstance(self._inner, Wrapper):
            self._inner = self._inner._envs
        self._name = getattr(self._inner, "name", type(self._inner).__name__)
        if not callable(getattr(self._inner, "render", None)):
            raise UsageError(
                f"{self._name} has no screens: give it a method render() that returns an image "
                "[height, width, 3] uint8 of each environment"
            )
        self._action: Any = None
        self._image: Pixels | None = None
        self._score = 0.0

    def step(self, actions: NDArray[Any]) -> Step:
        step = self._envs.step(actions)
        self._action = actions[0]
        self._score = 0.0 if step.episodes else self._score + float(step.rewards[0])
        return step

    def screens(self, step: Step) -> list[Pixels]:
        """Return the image after the last step; where it ended the episode, the final one.

        The environment has restarted then, and its current image is of the next episode. If it does
        not keep `final_images`, by the number of the environment, it is the image before.
        """
        final = getattr(self._inner, "final_images", {}).get(0)
        before = self._image if final is None else self._checked(final)
        current = self.render()
        return [before if step.dones[0] and before is not None else current]

    def render(self) -> Pixels:
        """Return the current image; RunError if `render` gives something else.

        UsageError if pygame is missing, by which many environments draw.
        """
        try:
            images = self._inner.render()
        except Exception as error:
            if _misses_pygame(error):
                raise UsageError(
                    f"render of {self._name} needs pygame: pip install 'ppo37[video]'"
                ) from error
            if isinstance(error, RunError):  # it names the environment already
                raise
            raise RunError(
                f"render of {self._name} failed: {type(error).__name__}: {error}"
            ) from error
        image = images[0] if isinstance(images, list | tuple) and len(images) == 1 else images
        self._image = self._checked(image)
        return self._image

    def _checked(self, image: Any) -> Pixels:
        """Return an image in a row of bytes; RunError if it is none."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
            found = f"{getattr(image, 'dtype', '')} {list(np.shape(image))}".strip()
            raise RunError(
                f"render of {self._name} gave {type(image).__name__} {found}; it has to be a list "
                "of one image [height, width, 3] uint8 for each environment"
            )
        if image.shape[2] != 3 or 0 in image.shape:
            raise RunError(
                f"render of {self._name} gave an image {list(image.shape)}; it has to be "
                "[height, width, 3]"
            )
        return np.ascontiguousarray(image)

    def action(self) -> str:
        """Return the name of the last action; of several parts each with its value."""
        played = getattr(self._inner, "played", None)
        if played is not None:
            return str(played[0])
        action = self._action
        if action.ndim == 0:
            return self.action_names[int(action)]
        form = "{:+.2f}" if action.dtype.kind == "f" else "{}"
        parts = [form.format(part) for part in action[:MOST_NUMBERS]]
        return " ".join([*parts, *["..."][: len(action) - MOST_NUMBERS]])

    def score(self) -> float:
        """Return the score of the game in progress: by default the sum of its rewards."""
        scores = getattr(self._inner, "scores", None)
        return self._score if scores is None else float(scores[0])

    @property
    def fps(self) -> float:
        """The agent steps per second, by `metadata["render_fps"]` where it is known."""
        metadata = getattr(self._inner, "metadata", None)
        found = metadata.get("render_fps") if isinstance(metadata, dict) else None
        if not isinstance(found, int | float) or not 0 < found <= MOST_FPS:
            return DEFAULT_FPS
        return float(found)


def _rendered(envs: VecEnv) -> ShownEnv:
    """Show an environment by its own `render()`."""
    shown = _Rendered(envs)
    return ShownEnv(shown, shown.render, shown.screens, shown.action, shown.score, None, shown.fps)


def _misses_pygame(error: BaseException | None) -> bool:
    """Return whether an error comes from an import of pygame, through any other errors."""
    while error is not None:
        if isinstance(error, ImportError) and error.name == "pygame":
            return True
        error = error.__cause__ or error.__context__
    return False


def fitting_scale(width: int) -> tuple[int, int]:
    """Return the whole enlargement in width and height that is nearest to `VIDEO_WIDTH`."""
    factor = max(1, round(VIDEO_WIDTH / width))
    return factor, factor
