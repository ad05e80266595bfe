"""The source of the user's own environments: a Gymnasium id, `module:Class`, or an object.

An object makes one environment of Gymnasium; or it has the argument `num_envs` and makes N
environments, see `contract.EnvFactory`.
"""

import inspect
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from ..config import Config, brought_flags
from ..errors import UsageError
from .contract import EnvFactory, VecEnv, name_of
from .games import unknown_game
from .loading import load_module, load_object, name_and_arguments

_TRIED: dict[str, Any] = {}
"""Results of the trials of environments, by their source: one trial for each in a process."""


@dataclass(frozen=True)
class EnvSource:
    """The factory of the user's own environments; it can be sent to other processes.

    env: a Gymnasium id, `module:Class`, or the object itself.  kwargs: arguments of its
    constructor, as JSON.  wrappers, imports, channels: see `Config`.  render_mode: "rgb_array" for
    images, or None.
    Texts with a colon are imported when environments are made, so only texts that the user has
    typed are allowed.
    """

    env: str | Callable[..., Any]
    kwargs: str = "{}"
    wrappers: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    channels: str = "auto"
    render_mode: str | None = None

    def __call__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> VecEnv:
        made_by = self.load()
        numbers = {"first_env": first_env, "index": index}
        if makes_many(made_by):
            if self.wrappers:
                raise UsageError(f"{self.name} is not a Gymnasium environment: leave out --wrapper")
            return self._make(made_by, num_envs, seed, **numbers)
        from .gymnasium import Gymnasium

        make, known = self.maker(made_by), _TRIED.get(self.text)
        envs = Gymnasium(make, num_envs, seed, **numbers, channels=self.channels, tried=known)
        if self.text:
            _TRIED[self.text] = envs.tried
        return envs

    def maker(self, made_by: Callable[..., Any]) -> Callable[[], Any]:
        """Return the function that makes one environment of Gymnasium and its `Scores`."""
        return partial(self._make_one, made_by, [self._wrapper(text) for text in self.wrappers])

    @property
    def text(self) -> str:
        """All fields as a text; empty if an object makes the environments."""
        return repr(self) if isinstance(self.env, str) else ""

    @property
    def name(self) -> str:
        """The name of the environments: an id or module:Class."""
        return self.env if isinstance(self.env, str) else name_of(self.env) or ""

    @property
    def makes_single(self) -> bool:
        """Whether these are environments of Gymnasium, which are made one by one."""
        return not makes_many(self.load())

    def load(self) -> Callable[..., Any]:
        """Return the class or function that makes the environments; UsageError if there is none."""
        for text in self.imports:
            load_module(text) if ":" not in text else _call_once(text)
        if not isinstance(self.env, str):
            return self.env
        module, colon, name = self.env.rpartition(":")
        if colon and name.replace(".", "").isidentifier():
            return load_object(self.env)
        if colon:
            load_module(module)
        return partial(_make_by_id, _known_id(name))

    def parts(self) -> dict[str, Any]:
        """Return all classes, functions and modules that the user brings, by their names."""
        made_by = self.load()
        things = {self.name: _entry_point(self.name) if isinstance(made_by, partial) else made_by}
        things |= {text: load_module(text.partition(":")[0]) for text in self.imports}
        things |= {name: load_object(name) for name, _ in map(name_and_arguments, self.wrappers)}
        return things

    def rendered(self) -> "EnvSource":
        """Return a factory of the same environments that make images."""
        return replace(self, render_mode="rgb_array")

    def _make_one(
        self, make: Callable[..., Any], wrappers: list[tuple[str, Any, dict[str, Any]]]
    ) -> Any:
        """Make an environment with its wrappers, and its scores."""
        from gymnasium import Env

        from .single import Scores

        mode = {"render_mode": self.render_mode} if self.render_mode else {}
        env = self._make(make, **mode)
        if not isinstance(env, Env):
            raise UsageError(
                f"{self.name} made a {type(env).__name__}; it has to be a gymnasium.Env, or take "
                "num_envs and make a ppo37.envs.VecEnv"
            )
        scores = Scores(env)
        env = scores
        for name, wrapper, arguments in wrappers:
            env = self._call(wrapper, f"wrapper {name}", env, **arguments)
            if not isinstance(env, Env):
                raise UsageError(
                    f"wrapper {name} made a {type(env).__name__}; it has to be a gymnasium.Wrapper"
                )
        return env, scores

    def _make(self, make: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        return self._call(make, self.name, *arguments, **{**json.loads(self.kwargs), **keywords})

    def _call(
        self, make: Callable[..., Any], name: str, /, *arguments: Any, **keywords: Any
    ) -> Any:
        try:
            return make(*arguments, **keywords)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{name} cannot be made: {type(error).__name__}: {error}") from error

    @staticmethod
    def _wrapper(text: str) -> tuple[str, Any, dict[str, Any]]:
        name, arguments = name_and_arguments(text)
        return name, load_object(name), arguments


@cache
def _call_once(text: str) -> None:
    """Call `module:function` the first time only: Gymnasium warns of ids that are replaced."""
    function = load_object(text)
    try:
        function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{text} failed: {type(error).__name__}: {error}") from error


def as_factory(make_envs: Any, config: Config) -> EnvFactory:
    """Return the factory of the environments that an object makes; see the top of this module."""
    if isinstance(make_envs, EnvSource) or makes_many(make_envs):
        factory: EnvFactory = make_envs
        return factory
    return EnvSource(make_envs, config.env_kwargs, channels=config.channels)


def makes_many(make_envs: Any) -> bool:
    """Return whether a class or function makes N environments.

    It does if it takes `num_envs`, or can be called as `EnvFactory` is.
    """
    try:
        signature = inspect.signature(make_envs)
        if "num_envs" in signature.parameters:
            return True
        signature.bind(1, 0, first_env=0, index=0)
    except (TypeError, ValueError):
        return False
    return True


def source_of(config: Config, make_envs: EnvFactory | None = None) -> EnvFactory:
    """Return the factory of the user's own environments, without checks and wrappers.

    UsageError if they need the import of a module, which only the user may name.
    """
    if make_envs is not None:
        return as_factory(make_envs, config)
    assert config.env is not None
    arguments_import = may_import(config.env_kwargs)
    if not is_plain_id(config.env) or config.wrappers or config.imports or arguments_import:
        again = [f"--env={config.env}"] if arguments_import and is_plain_id(config.env) else []
        repeat = shlex.join([*again, *brought_flags(config)])
        raise UsageError(
            f"these environments import modules that only you may name: repeat {repeat} "
            "on the command line, or give make_envs from Python"
        )
    return EnvSource(config.env, config.env_kwargs, channels=config.channels)


def is_plain_id(env: str) -> bool:
    """Return whether a text can only be the id of a registered environment."""
    return ":" not in env and not env.endswith(".py")


def may_import(kwargs: str) -> bool:
    """Return whether the arguments of an environment may name a module.

    An example is the argument `env_id` of `GymV26Environment-v0`, which may begin with a module.
    """

    def names_module(value: Any) -> bool:
        if isinstance(value, dict):
            return "env_id" in value or any(map(names_module, value.values()))
        if isinstance(value, list):
            return any(map(names_module, value))
        return isinstance(value, str) and ":" in value

    return names_module(json.loads(kwargs))


def is_registered(name: str) -> bool:
    """Return whether Gymnasium has an environment of this id."""
    import gymnasium

    try:
        gymnasium.spec(name)
    except (gymnasium.error.Error, ValueError):
        return False
    return True


def short_name(env: str) -> str:
    """Return the name that stands for an environment in paths: its class, function or id."""
    return env.rpartition(":")[2]


def _make_by_id(name: str, /, **keywords: Any) -> Any:
    import gymnasium

    if isinstance(entry_point := gymnasium.spec(name).entry_point, str):
        load_module(entry_point.partition(":")[0])  # it may be in the working directory
    # Our own checks are done in every step and cost less.
    return gymnasium.make(name, **{"disable_env_checker": True, **keywords})


def _entry_point(name: str) -> Any:
    """Return the class or function behind an id."""
    from gymnasium.envs.registration import load_env_creator, spec

    found = spec(name.rpartition(":")[2]).entry_point
    return load_env_creator(found) if isinstance(found, str) else found


def _known_id(name: str) -> str:
    """Return an id; UsageError with the most similar ones if it is not registered."""
    if not is_registered(name):
        raise unknown_game(name)
    return name
