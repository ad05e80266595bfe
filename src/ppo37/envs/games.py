"""Game names: what people type, and what the emulator calls it."""

import difflib
import os
import re
import sys
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError

CATCH = "catch"

MULTIPLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs that ale-py ships but that no single player can play."""


@lru_cache(maxsize=1)
def atari_games() -> tuple[str, ...]:
    """Every Atari game that can be learned here, by its ROM name, sorted."""
    from ale_py import roms

    return tuple(sorted(set(roms.get_all_rom_ids()) - MULTIPLAYER_ONLY))


def resolve_game(name: str) -> str:
    """The ROM name of a game: `Pong`, `ALE/Pong-v5` and `PongNoFrameskip-v4` are all `pong`.

    UsageError with the nearest names if there is no such game.
    """
    plain = name.removeprefix("ALE/")
    plain = re.sub(r"-v\d+$", "", plain)
    plain = re.sub(r"(-ram)?(NoFrameskip|Deterministic)?$", "", plain)
    letters = re.sub(r"[ _-]", "", plain.lower())
    known = {game.replace("_", ""): game for game in (CATCH, *atari_games())}
    if letters in known:
        return known[letters]
    if letters in {game.replace("_", "") for game in MULTIPLAYER_ONLY}:
        raise UsageError(f"{name!r} has no single-player mode; `ppo37 games` lists the others")
    near = [known[match] for match in difflib.get_close_matches(letters, known, n=3, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else "`ppo37 games` lists them all"
    raise UsageError(f"unknown game {name!r}; {hint}")


def shows_ram(name: str) -> bool:
    """Whether a name such as `ALE/Seaquest-ram-v5` means the console's memory, not its screen."""
    return "-ram" in name


def require_known(game: str) -> None:
    """UsageError unless `game` is the ROM name of an Atari game."""
    if game not in atari_games():
        raise UsageError(
            f"{game!r} is no game of ppo37's: give its environments as make_envs in Python, or "
            "choose one that `ppo37 games` lists"
        )
    rom_of(game)


@lru_cache(maxsize=8)
def rom_of(game: str) -> Path:
    """Find the file of an Atari game; UsageError if it is missing or not what it should be."""
    from ale_py import roms

    file = Path(os.environ.get("ALE_ROMS_DIR") or Path(roms.__file__).parent, f"{game}.bin")
    try:
        with redirect_stdout(sys.stderr):  # it says where the variable leads to
            found = roms.get_rom_path(game) if file.is_file() else None  # compares its hash
        if found is not None:
            return Path(found)
        why = "it is not a file" if file.exists() else "it is not there"
    except OSError as error:
        why = error.strerror or str(error).partition(" Expected")[0]
    raise UsageError(
        f"the ROM of {game} cannot be used ({why}); it comes with the emulator: "
        "pip install --force-reinstall ale-py"
    )


class Cartridge(NamedTuple):
    """What an Atari game says of itself."""

    known_actions: tuple[str, ...]
    """Those that it makes use of, by their names."""
    screen: tuple[int, int]
    """Rows and columns: 210 x 160 in most games."""


@lru_cache(maxsize=8)
def cartridge(game: str) -> Cartridge:
    """Ask an Atari game; a tenth of a second for each."""
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    emulator.loadROM(rom_of(game))
    height, width = emulator.getScreenDims()
    known = tuple(action.name for action in emulator.getMinimalActionSet())
    return Cartridge(known, (height, width))


def title(game: str) -> str:
    """A name to show: `space_invaders` -> `Space Invaders`."""
    return game.replace("_", " ").title()


def score_key(game: str) -> str:
    """The name without case and separators, as score tables are looked up."""
    return game.replace("_", "").lower()
