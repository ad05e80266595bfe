"""How long a run will take, before it has made any update: from speeds that were measured once."""

import csv
from importlib.resources import files

from ..backends.precision import processor_kind
from ..config import Config, changes, preset_key

SPEED_SETTINGS = {
    "num_envs",
    "num_steps",
    "num_minibatches",
    "update_epochs",
    "target_kl",
    "observation",
    "network",
    "frame_stack",
    "action_space",
    "norm_obs",
    "norm_reward",
}
"""The settings that decide how fast a run is."""


def estimate_s(config: Config) -> float | None:
    """Seconds that the whole run takes on an idle machine of this kind.

    config: with precision, kernels and threads as they were chosen.  None where nothing like it was
    measured.
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
