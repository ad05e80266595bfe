"""The settings of a run, in one flat frozen dataclass.

Names are CleanRL's. Where files go, how often to save and what to print are not settings: they are
arguments of `train` and never change a result.
"""

import dataclasses
import difflib
import functools
import json
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
Schedule = float | str
"""A number, or "START:END": a setting that is annealed linearly, see `algorithm/schedules.py`."""
LARGEST_BATCH = 1 << 31
LARGEST_SIDE = 4096
"""The most pixels per side of an image; more than any screen has."""
CATCH = "catch"
"""The name of the small game that needs no ROM."""
LARGEST_FP32 = 3.4e38
"""A little less than the largest number in the precision that networks compute in."""


def _setting(
    default: Any,
    text: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    option: str | None = None,
) -> Any:
    """Make a field with its help text, its bounds, and its option if that has another name."""
    metadata = {"help": text, "least": least, "above": above, "most": most, "option": option}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """The settings of one run. UsageError, with a remedy, for values that make no sense."""

    game: str = _setting("pong", "the game, by its ROM name, or the name of the environment")
    env: str | None = _setting(
        None,
        "your own environment instead of GAME: module:Class, module:function or file.py:Class, of "
        "Gymnasium or of ppo37.envs.VecEnv; or the id of a Gymnasium environment",
    )
    env_kwargs: str = _setting("{}", "arguments of the environment's constructor, as JSON")
    wrappers: tuple[str, ...] = _setting(
        (),
        "wrapper of a Gymnasium environment: module:Class or file.py:Class, with arguments "
        "'module:Class {\"argument\": value}'; repeat it for several, the innermost first",
        option="wrapper",
    )
    imports: tuple[str, ...] = _setting(
        (),
        "module to import, or module:function to call, before the id of a Gymnasium environment is "
        "looked up; repeat it for several",
        option="import",
    )
    env_workers: int = _setting(
        0,
        "processes that step a Gymnasium environment or your own; 0: none, they are stepped here",
        least=0,
        most=256,
    )
    channels: Literal["auto", "first", "last"] = _setting(
        "auto",
        "axis of the channels in the images of a Gymnasium environment; auto: the one of length 1, "
        "3 or 4",
    )
    preset: str = _setting("classic", "the preset that the other values started from")
    protocol: Literal["classic", "machado"] = _setting(
        "classic",
        "classic: no sticky actions, the game's own few actions, a lost life ends the learning "
        "episode; machado: sticky actions .25, all 18 actions, only game over ends the episode",
    )
    modes: tuple[int, ...] | None = _setting(
        None,
        "modes of the Atari game, which the environments play in turn; none: its own",
        least=0,
        most=(1 << 31) - 1,
    )
    difficulty: int | None = _setting(
        None, "difficulty of the Atari game; none: its own", least=0, most=(1 << 31) - 1
    )
    seed: int = _setting(1, "seed of everything random", least=0, most=MAX_SEED)
    total_timesteps: int = _setting(10_000_000, "agent steps (of 4 frames) in all", least=1)
    num_envs: int = _setting(8, "environments stepped together", least=1, most=4096)
    num_steps: int = _setting(128, "steps per environment in a rollout", least=1)
    learning_rate: Schedule = _setting(2.5e-4, "learning rate of Adam at the start", above=0)
    anneal_lr: bool = _setting(True, "anneal the learning rate linearly to zero")
    gamma: float = _setting(0.99, "discount per agent step", least=0, most=1)
    gae_lambda: float = _setting(0.95, "lambda of the advantage estimate", least=0, most=1)
    num_minibatches: int = _setting(4, "minibatches per epoch", least=1)
    update_epochs: int = _setting(4, "passes over each rollout", least=1)
    norm_adv: bool = _setting(True, "normalize advantages in each minibatch")
    clip_coef: Schedule = _setting(0.1, "epsilon of the clipped objective", above=0)
    anneal_clip: bool = _setting(False, "anneal epsilon linearly to zero")
    clip_vloss: bool = _setting(True, "clip the value loss as well")
    ent_coef: Schedule = _setting(0.01, "weight of the entropy bonus", least=0)
    vf_coef: Schedule = _setting(0.5, "weight of the value loss", least=0)
    max_grad_norm: float = _setting(0.5, "bound on the global norm of the gradient", above=0)
    target_kl: float | None = _setting(None, "stop the epochs above this KL; none: never", above=0)
    adam_eps: float = _setting(1e-5, "epsilon of Adam", above=0)
    bootstrap_truncated: bool = _setting(
        False, "add the value of the last observation where a time limit ended an episode"
    )
    observation: Literal["pixels", "vector", "ram"] = _setting(
        "pixels",
        "pixels: images; vector: what a Gymnasium environment or your own returns, by default with "
        "network mlp; ram: the 128 bytes of the console's memory, by default with network mlp, "
        "norm_obs and norm_reward",
    )
    network: str = _setting(
        "nature",
        "a built-in network by its name, or your own as module:Class or file.py:Class; lstm has by "
        "default no more minibatches than environments",
    )
    hidden: tuple[int, ...] = _setting(
        (64, 64),
        "sizes of the dense layers of mlp, mlp_shared and, for vectors, lstm: 256,256",
        least=1,
        most=65_536,
    )
    frame_stack: int | None = _setting(
        None, "frames in an observation; none: 4, but 1 for an LSTM and for ram", least=1, most=16
    )
    action_space: Literal["discrete", "joystick", "multi_discrete", "continuous"] = _setting(
        "discrete",
        "discrete: one of the game's actions; joystick: three choices (left or right, down or up, "
        "FIRE or not); continuous: radius and angle of a joystick and FIRE, as real numbers, by "
        "default with ent_coef 0; other environments have their own, multi_discrete is several "
        "choices",
    )
    mask_actions: bool = _setting(False, "mask the actions that this game ignores")
    clip_rewards: bool | None = _setting(
        None, "clip rewards to their signs; none: for Atari without norm_reward only"
    )
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
            value = plain(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            _check(field, value)
        for flag, name in ANNEALED_BY.items():
            if getattr(self, flag) and isinstance(getattr(self, name), str):
                raise UsageError(
                    f"{name} {getattr(self, name)} has an end, and {flag} would anneal it to 0; "
                    f"turn {flag} off, or give {name} as one number"
                )
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
        """UsageError for an observation, an action space and settings that do not fit."""
        if self.norm_obs and self.observation == "pixels":
            raise UsageError("norm_obs is for vectors and ram: pixels are divided by 255 instead")
        if self.zero_mean_init and self.observation != "pixels":
            raise UsageError(
                "zero_mean_init is for observation pixels: it initializes convolutions"
            )
        if self.mask_actions and self.action_space == "continuous":
            raise UsageError("mask_actions is for actions to choose from, not for real numbers")
        if not self.is_atari and (self.modes is not None or self.difficulty is not None):
            raise UsageError(f"modes and difficulty are for Atari, not for {self.game}")
        if self.modes == ():
            raise UsageError("modes must have at least one mode of the game, as 0,4")
        if self.clip_rewards and self.norm_reward:
            raise UsageError("clip_rewards and norm_reward exclude each other; use one of them")
        try:
            kwargs = json.loads(self.env_kwargs)
        except ValueError as error:
            raise UsageError(f"env_kwargs is not JSON ({error}): {self.env_kwargs}") from error
        if not isinstance(kwargs, dict):
            raise UsageError(
                f'env_kwargs must be a JSON object such as {{"gravity": 5}}, not {self.env_kwargs}'
            )
        if self.env is None and (given := [n for n in ENV_SETTINGS if self.is_changed(n)]):
            raise UsageError(
                f"{given[0]} is for Gymnasium environments and your own, and {self.game} is neither"
            )

    def is_changed(self, name: str) -> bool:
        """Return whether a setting differs from its default."""
        return bool(getattr(self, name) != getattr(type(self), name))

    @property
    def is_atari(self) -> bool:
        """Whether the game is played by the Atari emulator."""
        return self.env is None and self.game != CATCH

    @property
    def frames_per_step(self) -> int:
        """Frames of the game in one agent step: 4 in Atari, 1 elsewhere."""
        return 4 if self.is_atari else 1

    @property
    def clips_rewards(self) -> bool:
        """Whether the agent learns from the signs of the rewards."""
        if self.clip_rewards is None:
            return self.is_atari and not self.norm_reward
        return self.clip_rewards

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

    def schedule(self, name: str) -> tuple[float, float]:
        """Return the start and the end of a `Schedule`; they are equal if it is not annealed."""
        start, end = _ends(getattr(self, name))
        flags = [flag for flag, annealed in ANNEALED_BY.items() if annealed == name]
        return start, 0.0 if any(getattr(self, flag) for flag in flags) else end

    def updates_left(self, agent_steps: int) -> int:
        """Count the updates that follow after `agent_steps` of the run."""
        return max(0, self.total_timesteps - agent_steps) // self.batch_size

    @property
    def num_updates(self) -> int:
        """Rollouts, each followed by one update, in the whole run."""
        return self.updates_left(0)

    @property
    def agent_steps(self) -> int:
        """Agent steps in the whole run: `total_timesteps`, rounded down to whole rollouts."""
        return self.num_updates * self.batch_size


NEVER_NONE = ("env", "clip_rewards", "modes")
"""Settings whose option cannot mean None, which is their value in every preset."""
ENV_SETTINGS = ("env_kwargs", "wrappers", "imports", "channels", "env_workers")
"""Settings of environments that are not built in."""

ANNEALED_BY = {"anneal_lr": "learning_rate", "anneal_clip": "clip_coef"}
"""CleanRL's switches of annealing to 0, and the settings that they anneal."""

OTHER_NAMES = {
    "lr": "learning_rate",
    "n_envs": "num_envs",
    "n_steps": "num_steps",
    "n_epochs": "update_epochs",
    "clip_range": "clip_coef",
    "env_id": "env",
}
"""Names in other libraries, and the settings that they mean here; for messages."""

RENAMED = {"contrast_init": "zero_mean_init"}
"""Old names of settings, which files, options and keyword arguments may still use."""


def describe_layers(precision: str, kernels: str) -> str:
    """Describe what computes the layers of a network."""
    return precision + (" by native kernels" if kernels == "native" else "")


def arguments_of(config: Config) -> list[str]:
    """Return the arguments of `ppo37 train` that give these settings, GAME first if it has one."""
    settings = dataclasses.asdict(config)
    game = settings.pop("game")
    return [*([game] if config.env is None else []), *flags(settings)]


def flags(settings: dict[str, Any]) -> list[str]:
    """Return the options of the command line that give these settings."""
    found = []
    for name, value in settings.items():
        option = option_of(name)
        if isinstance(value, bool):
            found.append(option if value else f"--no-{option[2:]}")
        elif item_type(name) is str:
            found += [f"{option}={item}" for item in value]
        elif item_type(name) is int and value is not None:
            found.append(f"{option}={','.join(map(str, value))}")
        elif value is not None or name not in NEVER_NONE:
            found.append(f"{option}={value}")
    return found


def brought_flags(config: Config) -> list[str]:
    """Return the options that name again the modules that a run imports."""
    named: dict[str, Any] = {"imports": config.imports, "wrappers": config.wrappers}
    named |= {
        n: getattr(config, n) for n in ("env", "network") if ":" in (getattr(config, n) or "")
    }
    return flags(named)


def option_of(setting: str) -> str:
    """Return the option of a setting: `--learning-rate`."""
    field = next(field for field in dataclasses.fields(Config) if field.name == setting)
    return "--" + (field.metadata["option"] or setting.replace("_", "-"))


def from_dict(values: dict[str, Any]) -> Config:
    """Return settings from plain values, as read from a file; UsageError for unknown names."""
    return Config(**checked(values))


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return some settings by their new names; UsageError for unknown names and wrong values."""
    values = with_new_names(values)
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for name, value in values.items():
        if name not in fields:
            near = [OTHER_NAMES.get(name, "")] if name in OTHER_NAMES else []
            near = near or difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown setting {name!r}{hint}")
        _check(fields[name], plain(fields[name], value))
    return values


def checked_in_file(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a TOML file, in which "none" stands for None, as `checked` does."""
    optional = {field.name for field in dataclasses.fields(Config) if field_type(field)[1]}
    return checked({n: None if n in optional and v == "none" else v for n, v in values.items()})


def implied_by(changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes of settings with those that follow: START:END turns off annealing to 0."""
    scheduled = {f: False for f, name in ANNEALED_BY.items() if isinstance(changes.get(name), str)}
    return {**scheduled, **changes}


def to_dict(config: Config) -> dict[str, Any]:
    """Return settings as plain values, as JSON has them: `from_dict` reads them."""
    values = dataclasses.asdict(config)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the present names of those that were renamed."""
    return {RENAMED.get(name, name): value for name, value in values.items()}


@functools.cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Config)


def field_type(field: "dataclasses.Field[Any]") -> tuple[type, bool]:
    """Return the plain type of a setting, and whether it may be None."""
    hint = _hints()[field.name]
    if hint == Schedule:
        return float, False
    if isinstance(hint, types.UnionType):
        plain = next(part for part in hint.__args__ if part is not types.NoneType)
        return typing.get_origin(plain) or plain, True
    return (str if choices(field.name) else typing.get_origin(hint) or hint), False


def item_type(setting: str) -> type | None:
    """Return the type of the items of a setting that is a tuple; None for any other."""
    hint = _hints()[setting]
    parts = hint.__args__ if isinstance(hint, types.UnionType) else (hint,)
    found = [get_args(part)[0] for part in parts if typing.get_origin(part) is tuple]
    return found[0] if found else None


def choices(setting: str) -> tuple[str, ...]:
    """Return the values that a setting can have; none if they are not listed."""
    hint = _hints()[setting]
    return get_args(hint) if typing.get_origin(hint) is Literal else ()


@functools.cache
def schedules() -> tuple[str, ...]:
    """Return the settings that can be annealed."""
    return tuple(name for name, hint in _hints().items() if hint == Schedule)


def _ends(value: float | str) -> tuple[float, float]:
    """Return the start and the end of "START:END", or of a number; ValueError for other texts."""
    start, _, end = str(value).partition(":")
    return float(start), float(end or start)


def plain(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return a value as its setting has it: whole numbers such as 1e6, and lists as in files."""
    kind, _ = field_type(field)
    if isinstance(value, list) and kind is tuple:
        return tuple(value)
    is_whole = kind is int and isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    """UsageError unless `value` has the field's type and is within its bounds."""
    plain, optional = field_type(field)
    if value is None and optional:
        return
    if field.name in schedules() and isinstance(value, str):
        _check_schedule(field, value)
        return
    item = item_type(field.name)
    if item is None or not isinstance(value, tuple):
        _check_value(field, plain, value)
        return
    for each in value:
        _check_value(field, item, each)


def _check_value(field: "dataclasses.Field[Any]", plain: type, value: Any) -> None:
    """UsageError unless a value, or an item of one, has the type and is within the bounds."""
    name, rules = field.name, field.metadata
    if plain is tuple:
        raise UsageError(f"{name} must be a list, as [64, 64] in a file, not {value!r}")
    if plain is int and isinstance(value, float):
        raise UsageError(f"{name} must be a whole number, not {value!r}")
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


def _check_schedule(field: "dataclasses.Field[Any]", value: str) -> None:
    """UsageError unless `value` is START:END; the end may be 0, which is never reached."""
    try:
        start, end = _ends(value)
    except ValueError:
        raise UsageError(
            f"{field.name} must be a number or START:END as in 0.01:0, not {value!r}"
        ) from None
    _check(field, start)
    if end:
        _check(field, end)
