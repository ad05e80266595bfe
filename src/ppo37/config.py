"""Everything that determines a run, in one flat frozen dataclass, and the presets.

Names are CleanRL's. Where files go, how often to save and what to show are not here: they are
arguments of `train` and never change a run.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from dataclasses import dataclass
from typing import Any

from .errors import LARGEST_NUMBER, UsageError
from .randomness import MAX_SEED


def _option(default: Any, text: str, *, least: float | None = None, above: float | None = None,
            most: float | None = None, choices: tuple[str, ...] = ()) -> Any:  # fmt: skip
    """A field with its help text and its bounds."""
    metadata = {"help": text, "least": least, "above": above, "most": most, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """The settings of one run. UsageError, with a remedy, for values that make no sense."""

    game: str = _option("pong", "the game, by its ROM name")
    preset: str = _option("classic", "the preset that the other values started from")
    protocol: str = _option(
        "classic",
        "classic: no sticky actions, the game's own few actions, a lost life ends the learning "
        "episode; "
        "machado: sticky actions .25, all 18 actions, only game over ends it",
        choices=("classic", "machado"),
    )
    seed: int = _option(1, "seed of everything random", least=0, most=MAX_SEED)
    total_timesteps: int = _option(10_000_000, "agent steps (of 4 frames) in all", least=1)
    num_envs: int = _option(8, "environments stepped together", least=1, most=4096)
    num_steps: int = _option(128, "steps per environment in a rollout", least=1)
    learning_rate: float = _option(2.5e-4, "learning rate of Adam at the start", above=0)
    anneal_lr: bool = _option(True, "anneal the learning rate linearly to zero")
    gamma: float = _option(0.99, "discount per agent step", least=0, most=1)
    gae_lambda: float = _option(0.95, "lambda of the advantage estimate", least=0, most=1)
    num_minibatches: int = _option(4, "minibatches per epoch", least=1)
    update_epochs: int = _option(4, "passes over each rollout", least=1)
    norm_adv: bool = _option(True, "normalise advantages in each minibatch")
    clip_coef: float = _option(0.1, "epsilon of the clipped objective", above=0)
    anneal_clip: bool = _option(False, "anneal epsilon linearly to zero")
    clip_vloss: bool = _option(True, "clip the value loss as well")
    ent_coef: float = _option(0.01, "weight of the entropy bonus", least=0)
    vf_coef: float = _option(0.5, "weight of the value loss", least=0)
    max_grad_norm: float = _option(0.5, "bound on the global norm of the gradient", above=0)
    target_kl: float | None = _option(None, "stop the epochs above this KL; none: never", above=0)
    adam_eps: float = _option(1e-5, "epsilon of Adam", above=0)
    bootstrap_truncated: bool = _option(
        False, "value what a time limit cut off (the reference algorithm does not)"
    )
    observation: str = _option(
        "pixels",
        "pixels: the screen; ram: the 128 bytes of the console's memory (or what bytes an "
        "environment of one's own gives), by default with network mlp, norm_obs and norm_reward",
        choices=("pixels", "ram"),
    )
    network: str = _option(
        "nature",
        "nature: convolutions of 32, 64, 64 channels and 512 features; nature_half: half of each; "
        "lstm: nature and an LSTM of 128 cells, by default with no more minibatches than "
        "environments; mlp: two dense layers of 64 for the policy and two "
        "for the value; mlp_shared: two for both",
        choices=("nature", "nature_half", "lstm", "mlp", "mlp_shared"),
    )
    frame_stack: int | None = _option(
        None, "frames in an observation; none: 4, but 1 for a network that remembers and for ram",
        least=1, most=16,
    )  # fmt: skip
    action_space: str = _option(
        "discrete",
        "discrete: one of the game's actions; joystick: left or right, down or up, FIRE or not; "
        "continuous: radius and angle of a stick, and FIRE, as real numbers, by default with "
        "ent_coef 0",
        choices=("discrete", "joystick", "continuous"),
    )
    mask_actions: bool = _option(False, "mask the actions that this game ignores")
    norm_obs: bool = _option(
        False, "normalize observations by their running mean and standard deviation"
    )
    clip_obs: float = _option(10.0, "bound on normalised observations", above=0)
    norm_reward: bool = _option(
        False,
        "divide rewards by the running standard deviation of returns, instead of taking the sign",
    )
    clip_reward: float = _option(10.0, "bound on scaled rewards", above=0)
    contrast_init: bool = _option(
        False, "initialise the first layer with kernels of zero mean and doubled scale"
    )
    reseed_interval: int = _option(
        5000,
        "reseed an environment at the first game over after this many steps; limits how much "
        "`resume` has to replay",
        least=1,
    )
    device: str = _option("auto", "where the network runs", choices=("auto", "cpu", "cuda"))
    threads: int | None = _option(
        None,
        "threads of each process; none: one for each core that it may use (affinity, CPU quota and "
        "OMP_NUM_THREADS count)",
        least=1, most=255,
    )  # fmt: skip
    precision: str = _option(
        "auto",
        "of the network's layers; auto: by a table of processors, if a self-test agrees",
        choices=("auto", "fp32", "bf16"),
    )
    kernels: str = _option(
        "auto",
        "what computes the layers; native: C that is compiled for this CPU; auto: by a table of "
        "processors, if a self-test agrees",
        choices=("auto", "torch", "native"),
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
        if self.remembers and self.num_envs % self.num_minibatches:
            raise UsageError(
                f"network {self.network} learns from whole sequences, and num_envs = "
                f"{self.num_envs} does not divide into num_minibatches = {self.num_minibatches}; "
                f"choose a divisor of {self.num_envs}"
            )
        self._check_senses()
        if self.norm_adv and self.minibatch_size < 2:
            raise UsageError(
                "a minibatch of 1 sample has no standard deviation to normalise advantages by; "
                "use fewer num_minibatches or norm_adv off"
            )
        if self.total_timesteps < self.batch_size:
            raise UsageError(
                f"total_timesteps = {self.total_timesteps} is less than one rollout of "
                f"num_envs * num_steps = {self.batch_size} steps"
            )

    def _check_senses(self) -> None:
        """UsageError for a network, an observation and an action space that do not fit."""
        if self.network not in NETWORKS_FOR[self.observation]:
            others = {name: kind for kind, names in NETWORKS_FOR.items() for name in names}
            raise UsageError(
                f"network {self.network} cannot read observation {self.observation}; use "
                f"--network {' or '.join(NETWORKS_FOR[self.observation])}, or "
                f"--observation {others[self.network]}"
            )
        if self.norm_obs and self.observation == "pixels":
            raise UsageError("norm_obs is for observation ram: pixels are divided by 255 instead")
        if self.contrast_init and self.observation == "ram":
            raise UsageError("contrast_init is for observation pixels: it is about convolutions")
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
    def remembers(self) -> bool:
        """Whether the network has a memory."""
        return self.network == "lstm"

    @property
    def sequence_length(self) -> int:
        """Steps of one environment that are learned from together."""
        return self.num_steps if self.remembers else 1

    @property
    def num_sequences(self) -> int:
        """Sequences in one rollout."""
        return self.batch_size // self.sequence_length

    @property
    def minibatch_sequences(self) -> int:
        """Sequences in one gradient step."""
        return self.num_sequences // self.num_minibatches

    @property
    def num_frames(self) -> int:
        """Frames in an observation."""
        return self.frame_stack or (1 if self.remembers or self.observation == "ram" else 4)

    @property
    def remarks(self) -> list[str]:
        """What is allowed and yet may not be what was meant."""
        found = []
        if self.remembers and self.num_frames > 1:
            found.append(
                f"network {self.network} remembers, and sees {self.num_frames} stacked frames as "
                "well; the reference shows it single ones"
            )
        if self.mask_actions and (self.action_space, self.protocol) == ("discrete", "classic"):
            found.append(
                "mask_actions changes nothing: only actions that the game knows are offered"
            )
        return found

    @property
    def divisible(self) -> bool:
        """Whether the environments can be stepped apart: they share no running moments."""
        return not (self.norm_obs or self.norm_reward)

    @property
    def num_updates(self) -> int:
        """Rollouts, each followed by one update, in the whole run."""
        return self.total_timesteps // self.batch_size

    @property
    def agent_steps(self) -> int:
        """Agent steps in the whole run: `total_timesteps`, less what is no whole rollout."""
        return self.num_updates * self.batch_size


LARGEST_BATCH = 1 << 31
LARGEST_FP32 = 3.4e38
"""What networks compute in ends a little above."""

NETWORKS_FOR = {"pixels": ("nature", "nature_half", "lstm"), "ram": ("mlp", "mlp_shared")}
"""The networks that can read each kind of observation."""

PRESETS: dict[str, dict[str, Any]] = {
    # openai/baselines ppo2 and CleanRL ppo_atari: what is compared with published scores.
    "classic": {},
    # Found by experiment on two cores (docs/LOG.md): half the network, many small steps.
    "fast_cpu": {
        "total_timesteps": 700_000, "network": "nature_half", "contrast_init": True,
        "num_minibatches": 16, "learning_rate": 1e-3, "clip_vloss": False, "vf_coef": 1.0,
        "target_kl": 0.015, "bootstrap_truncated": True,
    },
    # A guess: two seeds of Pong with 2 M steps did not reach 18 (docs/LOG.md).
    "fast_cuda": {
        "total_timesteps": 5_000_000, "num_envs": 64, "num_minibatches": 8,
        "learning_rate": 5e-4, "clip_coef": 0.2, "clip_vloss": False,
        "bootstrap_truncated": True,
    },
    "debug": {
        "total_timesteps": 256, "num_envs": 2, "num_steps": 32, "num_minibatches": 2,
        "update_epochs": 1, "network": "nature_half", "bootstrap_truncated": True,
    },
}  # fmt: skip
"""What each preset changes from the defaults of `Config`; `fast` has one entry per device."""

ADAPTED: dict[tuple[str, Any], dict[str, Any]] = {
    ("observation", "ram"): {
        "network": "mlp", "contrast_init": False, "norm_obs": True, "norm_reward": True,
    },
    # As in the reference: a bonus would make the deviations grow, and they have no bound.
    ("action_space", "continuous"): {"ent_coef": 0.0},
}  # fmt: skip
"""What every preset has instead where a setting is chosen that it was not made for."""

NO_PRESETS = ("protocol", "seed", "device", "threads", "precision", "kernels")
"""Settings that are none of a preset's."""

PRESET_NAMES = ("auto", "classic", "fast", "debug")


def entry_of(preset: str, device: str) -> str:
    """The name in PRESETS of a preset on a device ('cpu' or 'cuda')."""
    return f"fast_{device}" if preset == "fast" else preset


def from_preset(preset: str, game: str, device: str, **changes: Any) -> Config:
    """The configuration of a preset on a device ('cpu' or 'cuda'), with changes by name."""
    if preset not in PRESET_NAMES:
        raise UsageError(f"unknown preset {preset!r}; choose from {', '.join(PRESET_NAMES)}")
    name = "fast" if preset == "auto" else preset
    values = PRESETS[entry_of(name, device)]
    for choice, adapted in ADAPTED.items():
        if choice in changes.items():
            values = {**values, **adapted}
    values = {**values, **changes, "game": game, "preset": name, "device": device}
    if values.get("network") == "lstm" and "num_minibatches" not in changes:
        most = values.get("num_envs", Config.num_envs)  # a minibatch has whole sequences
        values["num_minibatches"] = min(most, values.get("num_minibatches", Config.num_minibatches))
    return from_dict(values)


def changes(config: Config) -> dict[str, Any]:
    """The hyperparameters that differ from those of the preset that `config` names."""
    preset = from_preset(config.preset, config.game, config.device)
    return {
        name: value for name, value in dataclasses.asdict(config).items()
        if name not in NO_PRESETS and value != getattr(preset, name)
    }  # fmt: skip


def in_words(config: Config, without: tuple[str, ...] = ()) -> str:
    """The preset, and what of it was changed but for the settings `without`."""
    changed = [f"{name} {value}" for name, value in changes(config).items() if name not in without]
    return f"preset {config.preset}" + (f" with {', '.join(changed)}" if changed else "")


def layers_in_words(precision: str, kernels: str) -> str:
    """What computes the layers of a network."""
    return precision + (" by native kernels" if kernels == "native" else "")


def from_dict(values: dict[str, Any]) -> Config:
    """A configuration from plain values, as read from a file; unknown names are refused."""
    known = {field.name for field in dataclasses.fields(Config)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown setting {name!r}{hint}")
    return Config(**values)


@functools.cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Config)


def field_type(field: "dataclasses.Field[Any]") -> tuple[type, bool]:
    """The plain type of a setting, and whether it may be None."""
    hint = _hints()[field.name]
    if isinstance(hint, types.UnionType):
        plain = next(part for part in hint.__args__ if part is not types.NoneType)
        return plain, True
    return hint, False


def choices(setting: str) -> tuple[str, ...]:
    """Return the values that a setting can have."""
    found: tuple[str, ...] = Config.__dataclass_fields__[setting].metadata["choices"]
    return found


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    """UsageError unless `value` has the field's type and lies within its bounds."""
    name, rules = field.name, field.metadata
    plain, optional = field_type(field)
    if value is None and optional:
        return
    accepted = (int, float) if plain is float else plain
    if not isinstance(value, accepted) or (plain is not bool and isinstance(value, bool)):
        raise UsageError(f"{name} must be of type {plain.__name__}, not {value!r}")
    if rules["choices"] and value not in rules["choices"]:
        raise UsageError(f"{name} must be one of {', '.join(rules['choices'])}, not {value!r}")
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
