"""An estimate of the time of a run, before its first update, from measured speeds."""

import csv
from importlib.resources import files

from ..backends.precision import processor_kind
from ..config import Config
from ..presets import changes, preset_key

BATCH_SETTINGS = {"num_envs", "num_steps", "num_minibatches", "update_epochs", "target_kl"}
INPUT_SETTINGS = {"observation", "frame_stack", "action_space", "norm_obs", "norm_reward"}
SPEED_SETTINGS = {"network"} | BATCH_SETTINGS | INPUT_SETTINGS
"""The settings that change the speed of a run."""


def estimate_s(config: Config) -> float | None:
    """Estimate the seconds of the whole run on an idle machine of this kind.

    config: with the precision, kernels and threads that were chosen.  None if no run with these
    settings was measured.
    """
    if SPEED_SETTINGS & set(changes(config)):
        return None
    wanted = {
        "processor": processor_kind(config.device),
        "precision": config.precision,
        "kernels": config.kernels,
        "threads": str(config.threads),
        "preset": preset_key(config.preset, config.device),
    }
    text = (files("ppo37") / "data" / "speeds.csv").read_text()
    for row in csv.DictReader(text.splitlines()):
        if all(row[name] == value for name, value in wanted.items()):
            return config.agent_steps / float(row["sps"])
    return None
