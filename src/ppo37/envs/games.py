"""Game names and ROMs: convert names to those of the emulator, and find and describe its games."""

import difflib
import os
import re
import sys
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..config import CATCH
from ..errors import UsageError

CUSTOM = "your own environments are given by --env module:Class, or an id after --import"

MULTIPLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs of ale-py that have no single-player mode."""

LARGEST_SCORES = {
    "bowling": 300,
    "boxing": 100,
    "breakout": 864,
    CATCH: 10,
    "fishing_derby": 99,
    "pong": 21,
    "surround": 10,
    "tennis": 24,
}
"""The highest score of a game, where its rules have one."""


@lru_cache(maxsize=1)
def atari_games() -> tuple[str, ...]:
    """Return the ROM names of all supported Atari games, sorted."""
    from ale_py import roms

    return tuple(sorted(set(roms.get_all_rom_ids()) - MULTIPLAYER_ONLY))


def is_built_in(name: str) -> bool:
    """Return whether a name means catch or an Atari game, also one without single-player mode."""
    known = {game.replace("_", "") for game in (CATCH, *atari_games(), *MULTIPLAYER_ONLY)}
    return _letters(name) in known


def resolve_game(name: str) -> str:
    """Return the ROM name of a game: "pong" for `Pong`, `ALE/Pong-v5` and `PongNoFrameskip-v4`.

    UsageError with the most similar names if there is no such game.
    """
    letters = _letters(name)
    known = {game.replace("_", ""): game for game in (CATCH, *atari_games())}
    if letters in known:
        return known[letters]
    if letters in {game.replace("_", "") for game in MULTIPLAYER_ONLY}:
        raise UsageError(f"{name!r} has no single-player mode; `ppo37 games` lists the others")
    raise unknown_game(name)


def unknown_game(name: str) -> UsageError:
    """Return the error for a name that neither ppo37 nor Gymnasium knows, with similar names."""
    import gymnasium

    known = {game.replace("_", ""): game for game in (CATCH, *atari_games())}
    known |= {env_id: env_id for env_id in gymnasium.registry if not is_built_in(env_id)}
    near = [
        known[match]
        for written in (_letters(name), name)
        for match in difflib.get_close_matches(written, known, n=3, cutoff=0.6)
    ]
    names = ", ".join(dict.fromkeys(near))
    if "/" in name and not name.startswith("ALE/"):
        package = name.partition("/")[0]
        return UsageError(
            f"unknown game {name!r}; if another package has it, name what registers {package}/ by "
            "--import"
        )
    hint = f"did you mean {names}?" if near else f"`ppo37 games` lists those of Atari; {CUSTOM}"
    return UsageError(f"unknown game {name!r}; {hint}")


def _letters(name: str) -> str:
    """Return the name of a game in lower case, without separators and what Gymnasium adds."""
    plain = name.removeprefix("ALE/")
    plain = re.sub(r"-v\d+$", "", plain)
    plain = re.sub(r"(-ram)?(NoFrameskip|Deterministic)?$", "", plain)
    return re.sub(r"[ _-]", "", plain.lower())


def shows_ram(name: str) -> bool:
    """Return whether a name such as `ALE/Seaquest-ram-v5` asks for RAM observations."""
    return "-ram" in name


def require_known(game: str) -> None:
    """Raise UsageError unless `game` is the ROM name of an Atari game and its ROM is there."""
    if game not in atari_games():
        raise UsageError(f"{game!r} is not an Atari game; {CUSTOM}")
    rom_of(game)


@lru_cache(maxsize=8)
def rom_of(game: str) -> Path:
    """Return the path of an Atari game's ROM; UsageError if it is missing or damaged."""
    from ale_py import roms

    file = Path(os.environ.get("ALE_ROMS_DIR") or Path(roms.__file__).parent, f"{game}.bin")
    try:
        with redirect_stdout(sys.stderr):  # ale-py prints where ALE_ROMS_DIR points
            found = roms.get_rom_path(game) if file.is_file() else None  # checks its hash
        if found is not None:
            return Path(found)
        why = "it is not a file" if file.exists() else "it does not exist"
    except OSError as error:
        why = error.strerror or str(error).partition(" Expected")[0]
    raise UsageError(
        f"the ROM of {game} cannot be used ({why}); it comes with the emulator: "
        "pip install --force-reinstall ale-py"
    )


class GameInfo(NamedTuple):
    """The emulator's description of an Atari game."""

    known_actions: tuple[str, ...]
    """The names of the actions that it uses."""
    screen: tuple[int, int]
    """Rows and columns: 210 x 160 in most games."""
    modes: tuple[int, ...]
    difficulties: tuple[int, ...]


@lru_cache(maxsize=8)
def game_info(game: str) -> GameInfo:
    """Load an Atari game and describe it; takes 0.1 s."""
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    emulator.loadROM(rom_of(game))
    height, width = emulator.getScreenDims()
    known = tuple(action.name for action in emulator.getMinimalActionSet())
    modes, difficulties = emulator.getAvailableModes(), emulator.getAvailableDifficulties()
    return GameInfo(known, (height, width), tuple(modes), tuple(difficulties))


def require_mode(game: str, modes: tuple[int, ...] | None, difficulty: int | None) -> None:
    """Raise UsageError unless an Atari game has these modes and this difficulty."""
    for what, asked, found in (
        ("mode", modes or (), game_info(game).modes),
        ("difficulty", () if difficulty is None else (difficulty,), game_info(game).difficulties),
    ):
        for value in asked:
            if value not in found:
                have = ", ".join(map(str, found))
                raise UsageError(f"{title(game)} has no {what} {value}; it has {have}")


def title(game: str) -> str:
    """Return a name for display: `space_invaders` -> `Space Invaders`; others stay as they are."""
    return game.replace("_", " ").title() if game.islower() else game


def score_key(game: str) -> str:
    """Return the key of a game in score tables: its name without case and separators."""
    return game.replace("_", "").lower()
