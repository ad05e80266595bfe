"""The public names of the environments, and the messages for unknown games."""

import pytest

from ppo37 import envs
from ppo37.envs.games import require_known, resolve_game
from ppo37.errors import UsageError


def test_the_former_name_of_a_state_still_works() -> None:
    assert envs.Moment is envs.EnvState
    assert all(hasattr(envs, name) for name in envs.__all__)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            require_known,
            "'cartpole' is not an Atari game; your own environments are given by --env",
        ),
        (resolve_game, r"unknown game 'cartpole'; did you mean CartPole-v1"),
        (lambda _: resolve_game("qqq"), r"unknown game 'qqq'; `ppo37 games` lists .* --import"),
    ],
)
def test_an_unknown_game_is_refused_with_the_way_to_custom_environments(call, message) -> None:
    with pytest.raises(UsageError, match=message):
        call("cartpole")
