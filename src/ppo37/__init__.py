"""ppo37: Proximal Policy Optimization from scratch, for Atari.

    from ppo37 import from_preset, train, evaluate, load_agent

Names are imported on first use, so that importing the package costs and changes nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config, from_preset
    from .evaluate import evaluate, load_agent
    from .loop import resume, train

__version__ = "0.1.0"
__all__ = ["Config", "evaluate", "from_preset", "load_agent", "resume", "train"]

_HOMES = {
    "Config": "config", "from_preset": "config", "evaluate": "evaluate", "load_agent": "evaluate",
    "resume": "loop", "train": "loop",
}  # fmt: skip


class _Package(ModuleType):
    """This package, where `train` and `evaluate` always mean the functions.

    Importing the submodules of the same names would otherwise bind the modules here.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'ppo37' has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value


sys.modules[__name__].__class__ = _Package
