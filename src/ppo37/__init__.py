"""ppo37: Proximal Policy Optimization from scratch, for Atari.

    from ppo37 import from_preset, train, evaluate, load_agent, make_env

Names are imported on first use, so that importing the package costs and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config
    from .errors import RunError, UsageError
    from .loop import resume, train
    from .presets import from_preset
    from .session.observer import Observer
    from .session.session import Summary
    from .suites.compare import compare
    from .tools.agents import TrainedAgent, load_agent
    from .tools.callbacks import EvaluateEvery, KeepBest, MaxTime, RecordEvery, Until
    from .tools.evaluate import Evaluation, evaluate
    from .tools.gym_env import make_env
    from .tools.plots import plot
    from .tools.record import Recording, record

__version__ = "0.2.0"
__all__ = [
    "Config",
    "EvaluateEvery",
    "Evaluation",
    "KeepBest",
    "MaxTime",
    "Observer",
    "RecordEvery",
    "Recording",
    "RunError",
    "Summary",
    "TrainedAgent",
    "Until",
    "UsageError",
    "compare",
    "evaluate",
    "from_preset",
    "load_agent",
    "make_env",
    "plot",
    "record",
    "resume",
    "train",
]

_MODULES = {
    "Config": "config",
    "EvaluateEvery": "tools.callbacks",
    "Evaluation": "tools.evaluate",
    "KeepBest": "tools.callbacks",
    "MaxTime": "tools.callbacks",
    "Observer": "session.observer",
    "RecordEvery": "tools.callbacks",
    "Recording": "tools.record",
    "RunError": "errors",
    "Summary": "session.session",
    "TrainedAgent": "tools.agents",
    "Until": "tools.callbacks",
    "UsageError": "errors",
    "compare": "suites.compare",
    "evaluate": "tools.evaluate",
    "from_preset": "presets",
    "load_agent": "tools.agents",
    "make_env": "tools.gym_env",
    "plot": "tools.plots",
    "record": "tools.record",
    "resume": "loop",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ppo37' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
