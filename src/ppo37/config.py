"""The settings of a run, in one flat frozen dataclass, and the presets.

Names are CleanRL's. Where files go, how often to save and what to print are not settings: they are
arguments of `train` and never change a result.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import LARGEST_NUMBER, UsageError
from .randomness import MAX_SEED

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Kernels = Literal["auto", "torch", "native"]
LARGEST_BATCH = 1 << 31
LARGEST_FP32 = 3.4e38
"""A little less than the largest number in the precision that networks compute in."""


def _setting(
    default: Any,
    text: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """Make a field with its help text and its bounds."""
    metadata = {"help": text, "least": least, "above": above, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """The settings of one run. UsageError, with a remedy, for values that make no sense."""

    game: str = _setting("pong", "the game, by its ROM name")
    preset: str = _setting("classic", "the preset that the other values started from")
    protocol: Literal["classic", "machado"] = _setting(
        "classic",
        "classic: no sticky actions, the game's own few actions, a lost life ends the learning "
        "episode; machado: sticky actions .25, all 18 actions, only game over ends the episode",
    )
    seed: int = _setting(1, "seed of everything random", least=0, most=MAX_SEED)
    total_timesteps: int = _setting(10_000_000, "agent steps (of 4 frames) in all", least=1)
    num_envs: int = _setting(8, "environments stepped together", least=1, most=4096)
    num_steps: int = _setting(128, "steps per environment in a rollout", least=1)
    learning_rate: float = _setting(2.5e-4, "learning rate of Adam at the start", above=0)
    anneal_lr: bool = _setting(True, "anneal the learning rate linearly to zero")
    gamma: float = _setting(0.99, "discount per agent step", least=0, most=1)
    gae_lambda: float = _setting(0.95, "lambda of the advantage estimate", least=0, most=1)
    num_minibatches: int = _setting(4, "minibatches per epoch", least=1)
    update_epochs: int = _setting(4, "passes over each rollout", least=1)
    norm_adv: bool = _setting(True, "normalize advantages in each minibatch")
    clip_coef: float = _setting(0.1, "epsilon of the clipped objective", above=0)
    anneal_clip: bool = _setting(False, "anneal epsilon linearly to zero")
    clip_vloss: bool = _setting(True, "clip the value loss as well")
    ent_coef: float = _setting(0.01, "weight of the entropy bonus", least=0)
    vf_coef: float = _setting(0.5, "weight of the value loss", least=0)
    max_grad_norm: float = _setting(0.5, "bound on the global norm of the gradient", above=0)
    target_kl: float | None = _setting(None, "stop the epochs above this KL; none: never", above=0)
    adam_eps: float = _setting(1e-5, "epsilon of Adam", above=0)
    bootstrap_truncated: bool = _setting(
        False, "add the value of the last observation where a time limit ended an episode"
    )
    observation: Literal["pixels", "ram"] = _setting(
        "pixels",
        "pixels: the screen; ram: the 128 bytes of the console's memory (or any vector of bytes "
        "that your own environment returns), by default with network mlp, norm_obs and norm_reward",
    )
    network: Literal["nature", "nature_half", "lstm", "mlp", "mlp_shared"] = _setting(
        "nature",
        "nature: convolutions of 32, 64, 64 channels and 512 features; nature_half: half of each; "
        "lstm: nature and an LSTM of 128 cells, by default with no more minibatches than "
        "environments; mlp: two dense layers of 64 for the policy and two for the value; "
        "mlp_shared: two for both",
    )
    frame_stack: int | None = _setting(
        None, "frames in an observation; none: 4, but 1 for an LSTM and for ram", least=1, most=16
    )
    action_space: Literal["discrete", "joystick", "continuous"] = _setting(
        "discrete",
        "discrete: one of the game's actions; joystick: three choices (left or right, down or up, "
        "FIRE or not); continuous: radius and angle of a joystick and FIRE, as real numbers, by "
        "default with ent_coef 0",
    )
    mask_actions: bool = _setting(False, "mask the actions that this game ignores")
    norm_obs: bool = _setting(
        False, "normalize observations by their running mean and standard deviation"
    )
    clip_obs: float = _setting(10.0, "bound on normalized observations", above=0)
    norm_reward: bool = _setting(
        False,
        "divide rewards by the running standard deviation of returns, instead of taking the sign",
    )
    clip_reward: float = _setting(10.0, "bound on scaled rewards", above=0)
    zero_mean_init: bool = _setting(
        False, "initialize the first layer with filters of zero mean and doubled scale"
    )
    reseed_interval: int = _setting(
        5000,
        "reseed an environment at the first game over after this many steps; limits how much "
        "`resume` has to replay",
        least=1,
    )
    device: Device = _setting("auto", "where the network runs")
    threads: int | None = _setting(
        None,
        "threads of each process; none: one for each core that it may use (affinity, CPU quota and "
        "OMP_NUM_THREADS count)",
        least=1,
        most=255,
    )
    precision: Precision = _setting(
        "auto",
        "of the network's layers; auto: by a table of processors, if a self-test agrees",
    )
    kernels: Kernels = _setting(
        "auto",
        "what computes the layers; native: C that is compiled for this CPU; auto: by a table of "
        "processors, if a self-test agrees",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.batch_size > LARGEST_BATCH:
            raise UsageError(
                f"num_envs * num_steps = {self.batch_size} steps in one rollout are more than "
                f"{LARGEST_BATCH}; choose less of both"
            )
        if self.batch_size * self.update_epochs > LARGEST_BATCH:
            raise UsageError(
                f"update_epochs = {self.update_epochs} passes over {self.batch_size} steps are "
                f"more than {LARGEST_BATCH} shuffled steps; choose less of both"
            )
        if self.batch_size % self.num_minibatches:
            raise UsageError(
                f"num_envs * num_steps = {self.batch_size} does not divide into "
                f"num_minibatches = {self.num_minibatches}; choose a divisor of {self.batch_size}"
            )
        if self.recurrent and self.num_envs % self.num_minibatches:
            raise UsageError(
                f"network {self.network} learns from whole sequences, and num_envs = "
                f"{self.num_envs} does not divide into num_minibatches = {self.num_minibatches}; "
                f"choose a divisor of {self.num_envs}"
            )
        self._check_compatible()
        if self.norm_adv and self.minibatch_size < 2:
            raise UsageError(
                "a minibatch of 1 sample has no standard deviation to normalize advantages by; "
                "use fewer num_minibatches or norm_adv off"
            )
        if self.total_timesteps < self.batch_size:
            raise UsageError(
                f"total_timesteps = {self.total_timesteps} is less than one rollout of "
                f"num_envs * num_steps = {self.batch_size} steps"
            )

    def _check_compatible(self) -> None:
        """UsageError for a network, an observation and an action space that do not fit."""
        if self.network not in COMPATIBLE_NETWORKS[self.observation]:
            others = {name: kind for kind, names in COMPATIBLE_NETWORKS.items() for name in names}
            raise UsageError(
                f"network {self.network} cannot read observation {self.observation}; use "
                f"--network {' or '.join(COMPATIBLE_NETWORKS[self.observation])}, or "
                f"--observation {others[self.network]}"
            )
        if self.norm_obs and self.observation == "pixels":
            raise UsageError("norm_obs is for observation ram: pixels are divided by 255 instead")
        if self.zero_mean_init and self.observation == "ram":
            raise UsageError(
                "zero_mean_init is for observation pixels: it initializes convolutions"
            )
        if self.mask_actions and self.action_space == "continuous":
            raise UsageError("mask_actions is for actions to choose from, not for real numbers")

    @property
    def batch_size(self) -> int:
        """Agent steps in one rollout."""
        return self.num_envs * self.num_steps

    @property
    def minibatch_size(self) -> int:
        """Agent steps in one gradient step."""
        return self.batch_size // self.num_minibatches

    @property
    def recurrent(self) -> bool:
        """Whether the network has an LSTM."""
        return self.network == "lstm"

    @property
    def sequence_length(self) -> int:
        """Consecutive steps of one environment in a sample of the batch: 1 without an LSTM."""
        return self.num_steps if self.recurrent else 1

    @property
    def num_sequences(self) -> int:
        """Samples in one rollout."""
        return self.batch_size // self.sequence_length

    @property
    def minibatch_sequences(self) -> int:
        """Samples in one gradient step."""
        return self.num_sequences // self.num_minibatches

    @property
    def num_frames(self) -> int:
        """Frames in an observation."""
        return self.frame_stack or (1 if self.recurrent or self.observation == "ram" else 4)

    @property
    def warnings(self) -> list[str]:
        """Valid settings that are probably a mistake."""
        found = []
        if self.recurrent and self.num_frames > 1:
            found.append(
                f"network {self.network} has an LSTM and observes {self.num_frames} stacked frames "
                "as well; the reference uses single frames"
            )
        if self.mask_actions and (self.action_space, self.protocol) == ("discrete", "classic"):
            found.append(
                "mask_actions changes nothing: only actions that the game knows are offered"
            )
        return found

    @property
    def divisible(self) -> bool:
        """Whether the environments can be stepped apart: they share no running statistics."""
        return not (self.norm_obs or self.norm_reward)

    @property
    def frames_per_step(self) -> int:
        """Frames of the game in one agent step: 4 in Atari, 1 elsewhere."""
        return 1 if self.game == "catch" else 4

    @property
    def num_updates(self) -> int:
        """Rollouts, each followed by one update, in the whole run."""
        return self.total_timesteps // self.batch_size

    @property
    def agent_steps(self) -> int:
        """Agent steps in the whole run: `total_timesteps`, rounded down to whole rollouts."""
        return self.num_updates * self.batch_size


COMPATIBLE_NETWORKS = {"pixels": ("nature", "nature_half", "lstm"), "ram": ("mlp", "mlp_shared")}
"""The networks that can read each kind of observation."""

PRESETS: dict[str, dict[str, Any]] = {
    # openai/baselines ppo2 and CleanRL ppo_atari: what published scores are compared with.
    "classic": {},
    # Found by experiment on two cores (docs/LOG.md): half the network, many small steps.
    "fast_cpu": {
        "total_timesteps": 700_000,
        "network": "nature_half",
        "zero_mean_init": True,
        "num_minibatches": 16,
        "learning_rate": 1e-3,
        "clip_vloss": False,
        "vf_coef": 1.0,
        "target_kl": 0.015,
        "bootstrap_truncated": True,
    },
    # A guess: two seeds of Pong with 2 M steps did not reach 18 (docs/LOG.md).
    "fast_cuda": {
        "total_timesteps": 5_000_000,
        "num_envs": 64,
        "num_minibatches": 8,
        "learning_rate": 5e-4,
        "clip_coef": 0.2,
        "clip_vloss": False,
        "bootstrap_truncated": True,
    },
    "debug": {
        "total_timesteps": 256,
        "num_envs": 2,
        "num_steps": 32,
        "num_minibatches": 2,
        "update_epochs": 1,
        "network": "nature_half",
        "bootstrap_truncated": True,
    },
}
"""What each preset changes from the defaults of `Config`; `fast` has one entry per device."""

IMPLIED_SETTINGS: dict[tuple[str, Any], dict[str, Any]] = {
    ("observation", "ram"): {
        "network": "mlp",
        "zero_mean_init": False,
        "norm_obs": True,
        "norm_reward": True,
    },
    # As in the reference: with an entropy bonus the standard deviations would grow without bound.
    ("action_space", "continuous"): {"ent_coef": 0.0},
}
"""Settings that replace those of every preset where an observation or action space is chosen."""

NOT_IN_PRESETS = ("protocol", "seed", "device", "threads", "precision", "kernels")
"""Settings that no preset changes."""

PRESET_NAMES = ("auto", "classic", "fast", "debug")

RENAMED = {"contrast_init": "zero_mean_init"}
"""Old names of settings, which files, options and keyword arguments may still use."""


def preset_key(preset: str, device: str) -> str:
    """Return the key in PRESETS of a preset on a device ('cpu' or 'cuda')."""
    return f"fast_{device}" if preset == "fast" else preset


def from_preset(preset: str, game: str, device: str, **changes: Any) -> Config:
    """Return the settings of a preset on a device ('cpu' or 'cuda'), with changes by name."""
    if preset not in PRESET_NAMES:
        raise UsageError(f"unknown preset {preset!r}; choose from {', '.join(PRESET_NAMES)}")
    changes = _with_new_names(changes)
    name = "fast" if preset == "auto" else preset
    values = PRESETS[preset_key(name, device)]
    for choice, implied in IMPLIED_SETTINGS.items():
        if choice in changes.items():
            values = {**values, **implied}
    values = {**values, **changes, "game": game, "preset": name, "device": device}
    if values.get("network") == "lstm" and "num_minibatches" not in changes:
        most = values.get("num_envs", Config.num_envs)  # a minibatch has whole sequences
        values["num_minibatches"] = min(most, values.get("num_minibatches", Config.num_minibatches))
    return from_dict(values)


def changes(config: Config) -> dict[str, Any]:
    """Return the hyperparameters that differ from those of the preset that `config` names."""
    preset = from_preset(config.preset, config.game, config.device)
    return {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in NOT_IN_PRESETS and value != getattr(preset, name)
    }


def describe(config: Config, without: tuple[str, ...] = ()) -> str:
    """Describe settings by their preset and what differs from it, except for `without`."""
    changed = [f"{name} {value}" for name, value in changes(config).items() if name not in without]
    return f"preset {config.preset}" + (f" with {', '.join(changed)}" if changed else "")


def describe_layers(precision: str, kernels: str) -> str:
    """Describe what computes the layers of a network."""
    return precision + (" by native kernels" if kernels == "native" else "")


def arguments_of(config: Config) -> list[str]:
    """Return the arguments of `ppo37 train` that give these settings, GAME first."""
    settings = dataclasses.asdict(config)
    return [settings.pop("game"), *flags(settings)]


def flags(settings: dict[str, Any]) -> list[str]:
    """Return the options of the command line that give these settings."""
    found = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        else:
            found.append(f"--{option}={value}")
    return found


def from_dict(values: dict[str, Any]) -> Config:
    """Return settings from plain values, as read from a file; UsageError for unknown names."""
    values = _with_new_names(values)
    known = {field.name for field in dataclasses.fields(Config)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown setting {name!r}{hint}")
    return Config(**values)


def _with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in values.items()}


@functools.cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Config)


def field_type(field: "dataclasses.Field[Any]") -> tuple[type, bool]:
    """Return the plain type of a setting, and whether it may be None."""
    hint = _hints()[field.name]
    if isinstance(hint, types.UnionType):
        plain = next(part for part in hint.__args__ if part is not types.NoneType)
        return plain, True
    return (str if choices(field.name) else hint), False


def choices(setting: str) -> tuple[str, ...]:
    """Return the values that a setting can have; none if they are not listed."""
    hint = _hints()[setting]
    return get_args(hint) if typing.get_origin(hint) is Literal else ()


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    """UsageError unless `value` has the field's type and is within its bounds."""
    name, rules = field.name, field.metadata
    plain, optional = field_type(field)
    if value is None and optional:
        return
    accepted = (int, float) if plain is float else plain
    if not isinstance(value, accepted) or (plain is not bool and isinstance(value, bool)):
        raise UsageError(f"{name} must be of type {plain.__name__}, not {value!r}")
    if choices(name) and value not in choices(name):
        raise UsageError(f"{name} must be one of {', '.join(choices(name))}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} must be a finite number, not {value!r}")
    if rules["above"] is not None and not value > rules["above"]:
        raise UsageError(f"{name} must be more than {rules['above']}, not {value!r}")
    if rules["least"] is not None and not value >= rules["least"]:
        raise UsageError(f"{name} must be at least {rules['least']}, not {value!r}")
    most = rules["most"]
    if most is None and not isinstance(value, str):
        most = LARGEST_FP32 if plain is float else LARGEST_NUMBER
    if most is not None and not value <= most:
        raise UsageError(f"{name} must be at most {most}, not {value!r}")
