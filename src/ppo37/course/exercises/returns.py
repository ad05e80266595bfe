"""Exercises on the errors of single steps, advantages and value targets (E6, E7, E8)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...algorithm import update
from ...algorithm.advantages import gae
from .. import oracle
from ..exercise import Case, Exercise, Function, Mistake, Place, Wrong, chance, normal, numbers

ENDS = "What done does"
SHAPES = (
    "rewards, dones: [T, N], for T steps in N environments; done is 1 where a step ended an\n"
    "episode, else 0.  values: [T+1, N]; the last row is the value of the state after the last\n"
    "step.  All are float32."
)


def _rollouts() -> list[tuple[str, Tensor, Tensor, Tensor]]:
    """Return rewards, values and dones of rollouts, with what is special about them."""
    by_hand = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    values = torch.tensor([[0.5], [0.5], [1.0], [0.5], [1.0]])
    middle, last = torch.tensor([[0.0], [1.0], [0.0], [0.0]]), torch.zeros(4, 1)
    last[3] = 1.0
    r = numbers(1)
    return [
        ("in one step", torch.tensor([[1.0]]), torch.tensor([[0.5], [2.0]]), torch.zeros(1, 1)),
        ("where no episode ends", by_hand, values, torch.zeros(4, 1)),
        ("where the last step ends an episode", by_hand, values, last),
        ("where a step in the middle ends an episode", by_hand, values, middle),
        (
            "with several environments",
            normal(r, 7, 3),
            normal(r, 8, 3),
            chance(r, 0.3, 7, 3),
        ),
        ("with as many environments as steps", normal(r, 4, 4), normal(r, 5, 4), torch.zeros(4, 4)),
    ]


def _cases(*settings: tuple[str, tuple[float, ...]]) -> Callable[[], list[Case]]:
    """Return the cases of rollouts with gamma, or gamma and lambda."""

    def cases() -> list[Case]:
        return [
            Case(f"{about}{more}", (rewards, values, dones, *numbers))
            for more, numbers in settings
            for about, rewards, values, dones in _rollouts()
        ]

    return cases


def _by_env(function: Function) -> Function:
    """Apply a function of the oracle to each environment, a column of the tensors."""

    def computed(rewards: Tensor, values: Tensor, dones: Tensor, *settings: float) -> Tensor:
        columns = zip(*(part.double().T.tolist() for part in (rewards, values, dones)), strict=True)
        return torch.tensor([function(*column, *settings) for column in columns]).T

    return computed


def _moved(dones: Tensor, wrong: Wrong) -> Tensor:
    """Return dones one step too late or too early, if that is among the mistakes."""
    nothing = torch.zeros_like(dones[:1])
    if "late" in wrong:
        return torch.cat([nothing, dones[:-1]])
    return torch.cat([dones[1:], nothing]) if "early" in wrong else dones


def _td_errors(
    wrong: Wrong, rewards: Tensor, values: Tensor, dones: Tensor, gamma: float
) -> Tensor:
    not_done = 1.0 - _moved(dones, wrong)
    following = values[:-1] if "same_value" in wrong else values[1:]
    if "no_last_value" in wrong:
        following = torch.cat([values[1:-1], torch.zeros_like(values[:1])])
    if "circular" in wrong:
        following = values[:-1].roll(-1, 0)
    if "any_done" in wrong:
        not_done = not_done.amin(1, keepdim=True)
    if "inverted_done" in wrong:
        not_done = 1.0 - not_done
    future = following if "through_end" in wrong else not_done * following
    future = future if "no_gamma" in wrong else gamma * future
    if "no_value" in wrong:
        return rewards + future
    if "all_stopped" in wrong:
        return rewards + not_done * (gamma * following - values[:-1])
    if "reward_lost" in wrong:
        return not_done * (rewards + gamma * following) - values[:-1]
    if "gamma_reward" in wrong:
        return gamma * (rewards + not_done * following) - values[:-1]
    if "exchanged" in wrong:
        return rewards + gamma * not_done * values[:-1] - values[1:]
    deltas = rewards + future - values[:-1]
    if "squared" in wrong:
        return deltas.square()
    return -deltas if "sign" in wrong else deltas


TD_MISTAKES = {
    "through_end": Mistake(
        "It adds the value of the next state also where the episode ended; that value belongs to "
        "the next episode.",
        ENDS,
    ),
    "late": Mistake(
        "It takes the end of an episode one step too late: done[t] means that step t itself ended "
        "it (in CleanRL the same array is shifted by one).",
        ENDS,
    ),
    "early": Mistake(
        "It takes the end of an episode one step too early: it uses done[t+1] at step t.", ENDS
    ),
    "inverted_done": Mistake("It multiplies with done where 1 - done is needed.", ENDS),
    "same_value": Mistake(
        "It uses the value of the same state twice; V(s_{t+1}) is one row further, values[1:].",
        "The error of one step",
    ),
    "no_last_value": Mistake(
        "It takes the value after the last step as 0; the last row of values stands for what "
        "comes after the rollout.",
        "The error of one step",
    ),
    "no_gamma": Mistake("The discount gamma is missing.", "The error of one step"),
    "no_value": Mistake(
        "It does not subtract V(s_t), so it gives a return and not an error.",
        "The error of one step",
    ),
    "sign": Mistake(
        "It has the wrong sign: expected minus happened, instead of happened minus expected.",
        "The error of one step",
    ),
    "reward_lost": Mistake(
        "Where an episode ends, it loses the reward of the last step; only the value of the next "
        "state does not count there.",
        ENDS,
    ),
    "gamma_reward": Mistake(
        "It discounts the reward, too: gamma belongs only to the value of the next state.",
        "The error of one step",
    ),
    "exchanged": Mistake(
        "V(s_t) and V(s_{t+1}) are exchanged.",
        "The error of one step",
    ),
    "squared": Mistake("It squares the errors.", "The error of one step"),
    "circular": Mistake(
        "In the last step it takes the value of the first state as that of the next one.",
        "The error of one step",
    ),
    "any_done": Mistake(
        "An episode that ends in one environment counts as an end in all of them.", ENDS
    ),
    "all_stopped": Mistake(
        "Where an episode ends, it leaves out V(s_t) as well; only the value of the next state "
        "does not count there.",
        ENDS,
    ),
}

TD_ERRORS = Exercise(
    name="td_errors",
    lesson="return",
    signature="td_errors(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float) -> Tensor",
    text=f"""Compute the errors [T, N] of single steps: what happened, minus what was expected.

delta_t = r_t + gamma * (1 - done_t) * V(s_{{t+1}}) - V(s_t)

{SHAPES}""",
    cases=_cases(("", (0.5,)), (", gamma 0.99", (0.99,))),
    oracle=_by_env(oracle.deltas),
    solve=_td_errors,
    mistakes=TD_MISTAKES,
    place=Place(
        update,
        "gae",
        # E7 of rewards delta and values 0 is the discounted sum of delta.
        lambda errors: (
            lambda rewards, values, dones, gamma, gae_lambda: gae(
                errors(rewards, values, dones, gamma),
                torch.zeros_like(values),
                dones,
                gamma,
                gae_lambda,
            )
        ),
    ),
    other="sign",
)


def _gae(
    wrong: Wrong, rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    moved = _moved(dones, wrong)
    if "inverted_done" in wrong:
        moved = 1.0 - moved
    deltas = _td_errors(wrong - {"late", "early", "inverted_done"}, rewards, values, moved, gamma)
    decay = (1.0 if "sum_no_gamma" in wrong else gamma) * (
        1.0 if "no_lambda" in wrong else gae_lambda
    )
    keep = torch.ones_like(moved) if "sum_through_end" in wrong else 1.0 - moved
    if "next_done" in wrong:
        keep = torch.cat([keep[1:], torch.ones_like(keep[:1])])
    result = torch.empty_like(deltas)
    advantage = torch.zeros_like(deltas[0])
    steps = range(len(deltas))
    for t in steps if "forward" in wrong else reversed(steps):
        advantage = deltas[t] + decay * keep[t] * advantage
        result[t] = advantage
    if "one_step" in wrong:
        result = deltas
    if "last_missing" in wrong:
        deltas[-1] = 0.0
        return _gae(frozenset(), deltas, torch.zeros_like(values), dones, gamma, gae_lambda)
    if "reversed" in wrong:
        result = result.flip(0)
    if "normalized" in wrong:
        result = (result - result.mean()) / (result.std() + 1e-8)
    return result + values[:-1] if "targets" in wrong else result


GAE = Exercise(
    name="gae",
    lesson="advantages",
    signature=(
        "gae(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float)"
        " -> Tensor"
    ),
    text=f"""Compute the advantages [T, N] of a rollout, from the last step to the first.

delta_t = r_t + gamma * (1 - done_t) * V(s_{{t+1}}) - V(s_t)
A_t = delta_t + gamma * lambda * (1 - done_t) * A_{{t+1}}, with A_T = 0

{SHAPES}""",
    cases=_cases(
        ("", (0.5, 0.5)),
        (", lambda 0", (0.9, 0.0)),
        (", lambda 1", (0.9, 1.0)),
        (", gamma 0.99 and lambda 0.95", (0.99, 0.95)),
    ),
    oracle=_by_env(oracle.gae_by_definition),
    solve=_gae,
    mistakes={
        **TD_MISTAKES,
        "next_done": Mistake(
            "In the sum it uses the end of the next step, done[t+1], for A_{t+1}; it is done[t] "
            "that says whether step t + 1 belongs to the same episode.",
            ENDS,
        ),
        "last_missing": Mistake(
            "The last step is never computed: its advantage is its own error, not 0.",
            "From the end to the start",
        ),
        "sum_through_end": Mistake(
            "It lets later errors count beyond the end of an episode: A_{t+1} is not multiplied "
            "by 1 - done_t.",
            ENDS,
        ),
        "no_lambda": Mistake(
            "lambda is missing in the sum of errors.", "From the end to the start"
        ),
        "sum_no_gamma": Mistake(
            "gamma is missing in the sum of errors; there the factor is gamma times lambda.",
            "From the end to the start",
        ),
        "one_step": Mistake(
            "It gives the error of one step only; later errors do not count.",
            "From the end to the start",
        ),
        "forward": Mistake(
            "It goes from the first step to the last; A_t needs A_{t+1}, so it has to begin at the "
            "end.",
            "From the end to the start",
        ),
        "reversed": Mistake(
            "The result is in reversed order: the last step comes first.",
            "From the end to the start",
        ),
        "targets": Mistake(
            "It gives A_t + V(s_t), which is the target of the value; the advantage is without "
            "V(s_t).",
            "Targets of the value",
        ),
        "normalized": Mistake(
            "It normalizes the advantages over the whole rollout. That is a step of its own, and "
            "it is done in each minibatch.",
            "Targets of the value",
        ),
    },
    place=Place(update, "gae"),
    other="sign",
)


def _value_targets(wrong: Wrong, advantages: Tensor, values: Tensor) -> Tensor:
    now = values[1:] if "next_value" in wrong else values[:-1]
    if "last_value" in wrong:
        now = values[-1:].expand_as(now)
    if "first_value" in wrong:
        now = values[:1].expand_as(now)
    if "reversed_values" in wrong:
        now = now.flip(0)
    if "mean_value" in wrong:
        now = now.mean(1, keepdim=True)
    if "normalized" in wrong:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    if "difference" in wrong:
        return advantages - now
    if "only_advantages" in wrong:
        return advantages.clone()
    return now.clone() if "only_values" in wrong else advantages + now


def _target_cases() -> list[Case]:
    r = numbers(2)
    return [
        Case("in one step", (torch.tensor([[0.5]]), torch.tensor([[1.0], [2.0]]))),
        Case("with one environment", (normal(r, 4, 1), normal(r, 5, 1))),
        Case("with several environments", (normal(r, 4, 3), normal(r, 5, 3))),
    ]


def _sums(advantages: Tensor, values: Tensor) -> Tensor:
    rows = zip(advantages.tolist(), values[:-1].tolist(), strict=True)
    return torch.tensor([[a + v for a, v in zip(*row, strict=True)] for row in rows])


VALUE_TARGETS = Exercise(
    name="value_targets",
    lesson="advantages",
    signature="value_targets(advantages: Tensor, values: Tensor) -> Tensor",
    text="""Compute the targets [T, N] of the value: the returns that it should have predicted.

R_t = A_t + V(s_t)

advantages: [T, N].  values: [T+1, N]; the last row is the value of the state after the rollout.""",
    cases=_target_cases,
    oracle=_sums,
    solve=_value_targets,
    mistakes={
        "next_value": Mistake(
            "It adds V(s_{t+1}); V(s_t) is one row earlier, values[:-1].", "Targets of the value"
        ),
        "last_value": Mistake(
            "It adds the value after the rollout to all steps; each step has its own value.",
            "Targets of the value",
        ),
        "first_value": Mistake(
            "It adds the value of the first step to all steps; each step has its own value.",
            "Targets of the value",
        ),
        "reversed_values": Mistake("It adds the values in reversed order.", "Targets of the value"),
        "mean_value": Mistake(
            "It takes the mean of the values over the environments; each has its own.",
            "Targets of the value",
        ),
        "normalized": Mistake(
            "It normalizes the advantages first; targets need them as they are.",
            "Targets of the value",
        ),
        "difference": Mistake("It subtracts V(s_t); it has to be added.", "Targets of the value"),
        "only_advantages": Mistake(
            "It gives the advantages themselves: V(s_t) is missing.", "Targets of the value"
        ),
        "only_values": Mistake(
            "It gives the values themselves: A_t is missing.", "Targets of the value"
        ),
    },
    place=Place(update, "value_targets"),
    other="only_values",
)

EXERCISES = (TD_ERRORS, GAE, VALUE_TARGETS)
