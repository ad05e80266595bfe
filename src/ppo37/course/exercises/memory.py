"""An exercise on the memory of an LSTM: its reset at the end of an episode."""

import torch
from torch import Tensor

from ...algorithm import rollout
from ..exercise import Case, Exercise, Mistake, Place, Wrong, normal, numbers

RESET = "Reset at the end of an episode"


def _reset(wrong: Wrong, lstm_state: Tensor, dones: Tensor) -> Tensor:
    keep = (1.0 - dones).unsqueeze(-1)
    if "inverted" in wrong:
        keep = dones.unsqueeze(-1)
    if "shifted" in wrong:
        keep = keep.roll(1, 0)
    if "mean" in wrong:
        keep = keep.mean()
    if "first_environment" in wrong:
        first = torch.arange(len(dones)) == dones.argmax()
        keep = torch.where(first & (dones > 0), 0.0, 1.0).unsqueeze(-1)
    if "first_number" in wrong:
        return torch.cat([lstm_state[:, :1] * keep, lstm_state[:, 1:]], -1)
    if "never" in wrong:
        return lstm_state.clone()
    if "always" in wrong:
        return torch.zeros_like(lstm_state)
    if "all_or_none" in wrong:
        return lstm_state * (1.0 - dones.max())
    if "all_together" in wrong:
        return lstm_state * (1.0 - dones.min())
    if "half" in wrong:
        outputs, cells = lstm_state.chunk(2, -1)
        return torch.cat([outputs * keep, cells], -1)
    return torch.where(keep > 0.0, lstm_state, 1.0) if "ones" in wrong else lstm_state * keep


def _cases() -> list[Case]:
    r = numbers(41)
    return [
        Case("where no episode ends", (normal(r, 2, 4), torch.zeros(2))),
        Case("where all episodes end", (normal(r, 2, 4), torch.ones(2))),
        Case(
            "where one of several episodes ends", (normal(r, 3, 4), torch.tensor([0.0, 1.0, 0.0]))
        ),
        Case(
            "with as many environments as numbers of state",
            (normal(r, 4, 4), torch.tensor([1.0, 0.0, 1.0, 0.0])),
        ),
    ]


RESET_STATE = Exercise(
    name="reset_state",
    lesson="memory",
    signature="reset_state(lstm_state: Tensor, dones: Tensor) -> Tensor",
    text="""Set the state of an LSTM to zero where a step ended the episode, [N, R].

lstm_state: [N, R], the R numbers that the LSTM remembers of each of N environments.
dones: [N] float32, 1 where the step ended the episode, else 0.""",
    cases=_cases,
    oracle=lambda state, dones: torch.tensor(
        [
            [0.0] * len(row) if done else row
            for row, done in zip(state.tolist(), dones.tolist(), strict=True)
        ]
    ),
    solve=_reset,
    mistakes={
        "never": Mistake(
            "It never resets: the agent remembers the episode before, which is another one.", RESET
        ),
        "always": Mistake("It resets in every step, so nothing is remembered.", RESET),
        "inverted": Mistake(
            "It keeps the state where the episode ended and deletes the others.", RESET
        ),
        "all_or_none": Mistake("It resets all environments as soon as one episode ends.", RESET),
        "all_together": Mistake("It resets only if all episodes end at once.", RESET),
        "shifted": Mistake("It resets the environment beside the one whose episode ended.", RESET),
        "mean": Mistake(
            "It makes the states of all environments a bit smaller, instead of setting those of "
            "some to 0.",
            RESET,
        ),
        "first_environment": Mistake(
            "It resets only the first of the environments whose episode ended.", RESET
        ),
        "first_number": Mistake("It resets only the first number of the state.", RESET),
        "half": Mistake(
            "It resets only half of the numbers; the state is outputs and cells.", RESET
        ),
        "ones": Mistake("It sets the state to 1; it has to be 0.", RESET),
    },
    place=Place(
        rollout,
        "reset_state",
        lambda f: lambda state, dones: f(state, dones) if state.numel() else state,
    ),
    other="always",
    task="remember",
)

EXERCISES = (RESET_STATE,)
