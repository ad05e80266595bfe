"""The presets, and the settings that a preset, a game and some changes give."""

import dataclasses
from contextlib import closing
from typing import Any

from .config import ENV_SETTINGS, Config, Device, from_dict, implied_by, with_new_names
from .envs.contract import EnvFactory, Spaces, name_of, spaces_of
from .envs.games import is_built_in, resolve_game, shows_ram
from .envs.source import is_registered, short_name, source_of
from .errors import UsageError

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
    # The tutorial's script for CartPole: CleanRL ppo.py.
    "classic_control": {"total_timesteps": 500_000, "num_envs": 4, "clip_coef": 0.2},
    # Its script for robots: CleanRL ppo_continuous_action.py.
    "mujoco": {
        "total_timesteps": 1_000_000,
        "num_envs": 1,
        "num_steps": 2048,
        "num_minibatches": 32,
        "update_epochs": 10,
        "learning_rate": 3e-4,
        "clip_coef": 0.2,
        "ent_coef": 0.0,
        "norm_obs": True,
        "norm_reward": True,
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
    ("observation", "vector"): {"network": "mlp", "zero_mean_init": False},
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

ZERO_MEAN_NETWORKS = ("nature", "nature_half", "lstm")
"""The networks that can have `zero_mean_init`; presets leave it off for others."""

NOT_IN_PRESETS = (
    *("env", "imports", "channels", "env_workers"),
    *("protocol", "modes", "difficulty", "seed", "device", "threads", "precision", "kernels"),
)
"""Settings that no preset changes."""

PRESET_NAMES = ("auto", "classic", "fast", "classic_control", "mujoco", "debug")


def preset_key(preset: str, device: str) -> str:
    """Return the key in PRESETS of a preset on a device ('cpu' or 'cuda')."""
    return f"fast_{device}" if preset == "fast" else preset


def auto_preset(spaces: Spaces) -> str:
    """Return the preset that `auto` stands for in environments of one's own."""
    if spaces.is_image:
        return "fast"
    return "mujoco" if spaces.action_space == "continuous" else "classic_control"


def from_preset(
    preset: str,
    game: str | None = None,
    device: Device = "auto",
    make_envs: EnvFactory | None = None,
    **changes: Any,
) -> Config:
    """Return the settings of a preset for a game on a device, with changes by name.

    game: a name as on the command line: `pong`, `ALE/Pong-v5` or `CartPole-v1`.  make_envs: as for
    `train`.  For environments that are not built in, one is made to read its spaces.  UsageError
    for unknown names and values.
    """
    from .backends.device import resolve_device

    if preset not in PRESET_NAMES:
        raise UsageError(f"unknown preset {preset!r}; choose from {', '.join(PRESET_NAMES)}")
    changes = {**implied_by(with_new_names(changes)), "device": resolve_device(device)}
    changes |= _game_settings(game, changes, make_envs)
    name = "fast" if preset == "auto" else preset
    if changes.get("env") is not None:
        spaces = _spaces(Config(**_of_source(changes)), make_envs)
        name = auto_preset(spaces) if preset == "auto" else preset
        _require_meaning(changes, spaces)
        changes = {**changes, **_settings_of(spaces, changes)}
    values = {**_preset_values(name, changes), **changes, "preset": name}
    if changes.get("env") is not None and "network" not in changes:
        values["network"] = _network_for(spaces, values.get("network", Config.network))
    if values.get("network", Config.network) not in ZERO_MEAN_NETWORKS:
        values["zero_mean_init"] = changes.get("zero_mean_init", False)
    if values.get("network") == "lstm" and "num_minibatches" not in changes:
        most = values.get("num_envs", Config.num_envs)  # a minibatch has whole sequences
        values["num_minibatches"] = min(most, values.get("num_minibatches", Config.num_minibatches))
    return from_dict(values)


def _preset_values(name: str, choices: dict[str, Any]) -> dict[str, Any]:
    """Return what a preset changes, with what the observation and action space imply."""
    if (key := preset_key(name, choices["device"])) not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; choose from {', '.join(PRESET_NAMES)}")
    values = PRESETS[key]
    for choice, implied in IMPLIED_SETTINGS.items():
        if choice in choices.items():
            values = {**values, **implied}
    return values


def _game_settings(
    game: str | None, changes: dict[str, Any], make_envs: EnvFactory | None
) -> dict[str, Any]:
    """Return the settings that the name of a game means."""
    env = changes.get("env") or (name_of(make_envs) if make_envs is not None else None)
    if game is None and env is None:
        raise UsageError("give the name of a game, or your own environment (--env)")
    if env is not None:
        own_name = game is not None and ":" not in game
        return {"game": game if own_name else short_name(env), "env": env}
    assert game is not None
    if not is_built_in(game):
        if ":" not in game and not is_registered(game):
            resolve_game(game)  # raises the error that names similar games
        return {"game": short_name(game), "env": game}
    if not shows_ram(game):
        return {"game": resolve_game(game)}
    if changes.get("observation", "ram") != "ram":
        raise UsageError(f"{game} means observation ram; leave one of them out")
    return {"game": resolve_game(game), "observation": "ram"}


def _of_source(changes: dict[str, Any]) -> dict[str, Any]:
    """Select the settings that say how an environment is made."""
    return {name: value for name, value in changes.items() if name in ("env", *ENV_SETTINGS)}


def _spaces(config: Config, make_envs: EnvFactory | None) -> Spaces:
    """Make an environment and return its spaces."""
    with closing(source_of(config, make_envs)(1, 0)) as envs:
        return spaces_of(envs)


def _network_for(spaces: Spaces, network: str) -> str:
    """Return a preset's network, or the one for small images where it cannot read them."""
    from .networks.registry import readers

    too_small = spaces.is_image and network not in readers(spaces.view_shape)
    return "minatar" if too_small else network


def _require_meaning(changes: dict[str, Any], spaces: Spaces) -> None:
    """UsageError for a setting of Atari, which would do nothing in these environments."""
    stack = "gymnasium.wrappers:FrameStackObservation"
    advice = {
        "protocol": "its rules are its own",
        "frame_stack": f"use --wrapper '{stack} {{\"stack_size\": 4}}'",
        "modes": "its arguments are given by --env-kwargs",
        "difficulty": "its arguments are given by --env-kwargs",
    }
    for name, hint in advice.items():
        if changes.get(name, getattr(Config, name)) != getattr(Config, name):
            raise UsageError(f"{name} is for Atari, not for {changes['game']}; {hint}")
    found = _settings_of(spaces, {})
    allowed = {**found, "channels": changes.get("channels") if spaces.is_image else "auto"}
    for name, value in allowed.items():
        given = changes.get(name, value)
        is_bytes = name == "observation" and given == "ram" and spaces.obs_dtype == "uint8"
        if given != value and not (is_bytes and not spaces.is_image):
            raise UsageError(f"{name} of {changes['game']} is {value}, not {given}; leave it out")


def _settings_of(spaces: Spaces, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that follow from spaces; bytes may be observed as `ram` if asked for."""
    observation = "pixels" if spaces.is_image else changes.get("observation", "vector")
    return {"observation": observation, "action_space": spaces.action_space}


def changes(config: Config) -> dict[str, Any]:
    """Return the hyperparameters that differ from those of the preset that `config` names."""
    kept = {name: getattr(config, name) for name in ("game", "env", "device")}
    choices = dict(kept)
    if config.env is not None:  # its spaces are no choice of the user
        choices |= {name: getattr(config, name) for name in ("observation", "action_space")}
    preset = from_dict({**_preset_values(config.preset, choices), **choices})
    return {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in (*NOT_IN_PRESETS, "game", "preset") and value != getattr(preset, name)
    }


def describe(config: Config, without: tuple[str, ...] = ()) -> str:
    """Describe settings by their preset and what differs from it, except for `without`."""
    changed = [f"{name} {value}" for name, value in changes(config).items() if name not in without]
    return f"preset {config.preset}" + (f" with {', '.join(changed)}" if changed else "")
