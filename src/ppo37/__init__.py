"""ppo37: Proximal Policy Optimization from scratch, for Atari.

    from ppo37 import from_preset, train, evaluate, load_agent

Names are imported on first use, so that importing the package costs and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config
    from .loop import resume, train
    from .presets import from_preset
    from .session.observer import Observer
    from .tools.callbacks import EvaluateEvery, KeepBest, MaxTime, RecordEvery
    from .tools.evaluate import evaluate, load_agent

__version__ = "0.2.0"
__all__ = [
    "Config",
    "EvaluateEvery",
    "KeepBest",
    "MaxTime",
    "Observer",
    "RecordEvery",
    "evaluate",
    "from_preset",
    "load_agent",
    "resume",
    "train",
]

_MODULES = {
    "Config": "config",
    "EvaluateEvery": "tools.callbacks",
    "KeepBest": "tools.callbacks",
    "MaxTime": "tools.callbacks",
    "Observer": "session.observer",
    "RecordEvery": "tools.callbacks",
    "evaluate": "tools.evaluate",
    "from_preset": "presets",
    "load_agent": "tools.evaluate",
    "resume": "loop",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ppo37' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
