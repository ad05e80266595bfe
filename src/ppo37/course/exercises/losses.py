"""Exercises on the loss: E1 ratio, E2 clipped objective, E3 value loss, E5 sum."""

from typing import Any

import torch
from torch import Tensor

from ...algorithm import losses, update
from ...algorithm.losses import ppo_loss
from .. import oracle
from ..exercise import Case, Exercise, Function, Mistake, Place, Wrong, normal, numbers

CASES_OF_THE_CLIP = "The four cases"
EPS = torch.tensor(0.1)


def _ratio(wrong: Wrong, new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    new, old = new_log_probs, old_log_probs
    if "swapped" in wrong:
        new, old = old, new
    if "quotient" in wrong:
        return new / old
    if "no_exp" in wrong:
        return new - old
    if "sum" in wrong:
        return (new + old).exp()
    if "underflow" in wrong:
        return new.exp() / old.exp()
    if "epsilon" in wrong:
        return new.exp() / (old.exp() + 1e-8)
    if "approximate" in wrong:
        return 1.0 + new - old
    if "joint" in wrong:
        return (new - old).sum().exp().expand_as(new)
    if "clipped" in wrong:
        return (new - old).exp().clamp(0.8, 1.2)
    if "expm1" in wrong:
        return torch.expm1(new - old)
    return torch.exp2(new - old) if "base_2" in wrong else (new - old).exp()


def _log_probs(seed: int, size: int) -> tuple[Tensor, Tensor]:
    r = numbers(seed)
    old = -normal(r, size).abs() - 0.1
    return old + 0.3 * normal(r, size), old


RATIO = Exercise(
    name="probability_ratio",
    lesson="ratio",
    signature="probability_ratio(new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor",
    text="""Compute how much more likely each action is under the new policy, [M].

rho = pi_new(a|s) / pi_old(a|s)

new_log_probs, old_log_probs: [M], logarithms of the probabilities of M actions.""",
    cases=lambda: [
        Case("where nothing has changed", (torch.tensor([-0.7]), torch.tensor([-0.7]))),
        Case("for one action", (torch.tensor([-0.5]), torch.tensor([-0.7]))),
        Case("for several actions", _log_probs(21, 6)),
        Case(
            "for unlikely actions", (torch.tensor([-300.0, -301.0]), torch.tensor([-301.0, -300.0]))
        ),
    ],
    oracle=lambda new, old: torch.tensor(
        [2.718281828459045 ** (n - o) for n, o in zip(new.tolist(), old.tolist(), strict=True)]
    ),
    solve=_ratio,
    mistakes={
        "swapped": Mistake(
            "It divides the old probability by the new one; the new one belongs on top.",
            "The ratio",
        ),
        "quotient": Mistake(
            "It divides the logarithms. The logarithm of a quotient is a difference.", "The ratio"
        ),
        "no_exp": Mistake(
            "It gives the logarithm of the ratio; exp of it is missing.", "The ratio"
        ),
        "sum": Mistake("It adds the logarithms, which multiplies the probabilities.", "The ratio"),
        "underflow": Mistake(
            "It divides two probabilities, which are both rounded to 0 for unlikely actions; take "
            "exp of the difference of the logarithms instead.",
            "The ratio",
        ),
        "epsilon": Mistake(
            "It adds a small number to the old probability, which is wrong for unlikely actions; "
            "exp of the difference of the logarithms needs none.",
            "The ratio",
        ),
        "approximate": Mistake(
            "It uses 1 + x instead of exp(x), which is right only near 0.", "The ratio"
        ),
        "joint": Mistake(
            "It multiplies the ratios of all samples; each sample has its own.", "The ratio"
        ),
        "clipped": Mistake("It clips the ratio; that is done later, in the loss.", "The ratio"),
        "expm1": Mistake("It gives the ratio minus 1.", "The ratio"),
        "base_2": Mistake("It uses 2 as the base of the exponential; the base is e.", "The ratio"),
    },
    place=Place(losses, "probability_ratio"),
    other="swapped",
    learned=(0,),
)


def _policy_loss(wrong: Wrong, advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    if "normalized" in wrong:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    if "fixed" in wrong:
        clip_coef = torch.tensor(0.2)
    low, high = 1.0 - clip_coef, 1.0 + clip_coef
    if "reciprocal" in wrong:
        low = 1.0 / high
    if "around_0" in wrong:
        low, high = -clip_coef, +clip_coef
    clipped = ratio.clamp(low, high)
    if "one_side" in wrong:
        clipped = ratio.clamp(max=high)
    if "clipped_advantage" in wrong:
        bounded = ratio * advantages.clamp(-clip_coef, clip_coef)
    else:
        bounded = clipped * advantages
    plain = ratio * advantages
    if "product" in wrong:
        bounded = plain.clamp(low, high)
    if "of_means" in wrong:
        plain, bounded = plain.mean(), bounded.mean()
    if "no_minimum" in wrong:
        objective = bounded
    elif "no_clip" in wrong:
        objective = plain
    else:
        objective = torch.max(plain, bounded) if "maximum" in wrong else torch.min(plain, bounded)
    if "ratio_before" in wrong:  # the minimum of the ratios, before the advantage's sign counts
        objective = torch.min(ratio, clipped) * advantages
    if "dropped" in wrong:
        inside = (ratio >= low) & (ratio <= high)
        objective = plain[inside] if inside.any() else plain.new_zeros(1)
    result = objective if "each" in wrong else objective.mean()
    result = objective.sum() if "sum" in wrong else result
    return result if "sign" in wrong else -result


def _policy_cases() -> list[Case]:
    r = numbers(22)
    ratios = [
        ("where nothing has changed", 1.0, 2.0),
        ("for A > 0 and a ratio inside of the range", 1.05, 2.0),
        ("for A > 0 and a ratio above the range", 1.5, 2.0),
        ("for A > 0 and a ratio below the range", 0.5, 2.0),
        ("for A < 0 and a ratio inside of the range", 0.95, -2.0),
        ("for A < 0 and a ratio below the range", 0.5, -2.0),
        ("for A < 0 and a ratio above the range", 1.5, -2.0),
    ]
    return [
        *(
            Case(about, (torch.tensor([advantage]), torch.tensor([ratio]), EPS))
            for about, ratio, advantage in ratios
        ),
        Case("for several samples", (normal(r, 8), (0.5 * normal(r, 8)).exp(), torch.tensor(0.2))),
    ]


POLICY_LOSS = Exercise(
    name="policy_loss",
    lesson="clip",
    signature="policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor",
    text="""Compute the clipped objective as a loss to minimize, a 0-d tensor.

L_pi = -mean(min(rho * A, clip(rho, 1 - eps, 1 + eps) * A))

advantages: [M], the A of each sample.  ratio: [M], its rho.  clip_coef: eps, a 0-d tensor.""",
    cases=_policy_cases,
    oracle=lambda advantages, ratio, eps: torch.tensor(
        -oracle.mean(
            [
                oracle.surrogate(rho, a, float(eps))
                for rho, a in zip(ratio.tolist(), advantages.tolist(), strict=True)
            ]
        )
    ),
    solve=_policy_loss,
    mistakes={
        "sign": Mistake(
            "The minus sign is missing: minimizing it would make good actions rarer.",
            "From an objective to a loss",
        ),
        "maximum": Mistake(
            "It takes the larger of the two products; the minimum is the careful one.",
            CASES_OF_THE_CLIP,
        ),
        "no_minimum": Mistake(
            "It uses only the clipped product. A ratio that has moved in the wrong direction then "
            "has no gradient, and nothing brings it back.",
            CASES_OF_THE_CLIP,
        ),
        "no_clip": Mistake("It does not clip the ratio.", "Why a clip"),
        "around_0": Mistake(
            "It clips the ratio to -eps ... +eps; the range has to be around 1.",
            "Why a clip",
        ),
        "fixed": Mistake("It uses 0.2 always, and not clip_coef.", "Why a clip"),
        "reciprocal": Mistake(
            "Its range begins at 1 / (1 + eps); it has to begin at 1 - eps.", "Why a clip"
        ),
        "product": Mistake(
            "It clips the product rho * A; the ratio has to be clipped.", "Why a clip"
        ),
        "of_means": Mistake(
            "It takes the minimum of two means; the minimum is taken for each sample, and then the "
            "mean.",
            CASES_OF_THE_CLIP,
        ),
        "dropped": Mistake(
            "It leaves out the samples whose ratio is outside of the range, also those that would "
            "bring the ratio back.",
            CASES_OF_THE_CLIP,
        ),
        "one_side": Mistake("It clips the ratio only from above.", CASES_OF_THE_CLIP),
        "clipped_advantage": Mistake(
            "It clips the advantage; the ratio has to be clipped.", "Why a clip"
        ),
        "ratio_before": Mistake(
            "It takes the minimum of the ratios before it multiplies by A. For A < 0 that is the "
            "larger product.",
            CASES_OF_THE_CLIP,
        ),
        "sum": Mistake(
            "It takes the sum over the samples; with the mean, the size of the minibatch does not "
            "change the size of the steps.",
            "From an objective to a loss",
        ),
        "each": Mistake(
            "It gives a number for each sample; the mean is missing.", "From an objective to a loss"
        ),
        "normalized": Mistake(
            "It normalizes the advantages, too; that is done before this function is called.",
            "From an objective to a loss",
        ),
    },
    place=Place(losses, "policy_loss"),
    other="sign",
    learned=(1,),
)


def _value_loss(
    wrong: Wrong, new_values: Tensor, old_values: Tensor, targets: Tensor, clip_coef: Tensor
) -> Tensor:
    if "fixed" in wrong:
        clip_coef = torch.tensor(0.2)
    if "broadcast" in wrong:
        new_values, old_values = new_values.unsqueeze(-1), old_values.unsqueeze(-1)
    error = new_values - targets
    change = new_values - old_values
    if "relative" in wrong:
        near = old_values * (new_values / old_values).clamp(1.0 - clip_coef, 1.0 + clip_coef)
    elif "clipped_value" in wrong:
        near = new_values.clamp(-clip_coef, clip_coef)
    elif "only_change" in wrong:
        near = change.clamp(-clip_coef, clip_coef)
    else:
        near = old_values + change.clamp(-clip_coef, clip_coef)
    far = near - targets
    if "absolute" in wrong:
        plain, bounded = error.abs(), far.abs()
    else:
        plain, bounded = error.square(), far.square()
    if "of_means" in wrong:
        plain, bounded = plain.mean(), bounded.mean()
    if "before_square" in wrong:
        chosen = torch.max(error, far).square()
    elif "no_clip" in wrong:
        chosen = plain
    elif "no_maximum" in wrong:
        chosen = bounded
    else:
        chosen = torch.min(plain, bounded) if "minimum" in wrong else torch.max(plain, bounded)
    result = chosen.sum() if "sum" in wrong else chosen.mean()
    return result if "no_half" in wrong else 0.5 * result


def _value_cases() -> list[Case]:
    r = numbers(23)
    by_hand = [
        ("where the value has not moved", 1.0, 1.0, 3.0),
        ("where it moved by less than eps", 1.05, 1.0, 3.0),
        ("where it moved far, towards the target", 2.0, 1.0, 3.0),
        ("where it moved far, away from the target", 0.0, 1.0, 3.0),
        ("where it moved far, beyond the target", 3.0, 1.0, 1.5),
    ]
    return [
        *(Case(about, (*(torch.tensor([x]) for x in values), EPS)) for about, *values in by_hand),
        Case("for several samples", (normal(r, 8), normal(r, 8), normal(r, 8), torch.tensor(0.2))),
    ]


VALUE_SECTION = "The value loss"
VALUE_LOSS = Exercise(
    name="value_loss",
    lesson="loss",
    signature=(
        "value_loss(new_values: Tensor, old_values: Tensor, targets: Tensor, clip_coef: Tensor)"
        " -> Tensor"
    ),
    text="""Compute the squared error of the values, with clipped changes, a 0-d tensor.

L_V = 1/2 mean(max((V - R)^2, (V_clip - R)^2))
V_clip = V_old + clip(V - V_old, -eps, +eps)

new_values: [M], the V of each sample.  old_values: [M], V_old, from the rollout.
targets: [M], the R of each sample.  clip_coef: eps, a 0-d tensor.""",
    cases=_value_cases,
    oracle=lambda new, old, targets, eps: torch.tensor(
        oracle.mean(
            [
                oracle.value_error(v, o, r, float(eps), True)
                for v, o, r in zip(new.tolist(), old.tolist(), targets.tolist(), strict=True)
            ]
        )
        / 2.0
    ),
    solve=_value_loss,
    mistakes={
        "fixed": Mistake("It uses 0.2 always, and not clip_coef.", VALUE_SECTION),
        "broadcast": Mistake(
            "It compares every value with every target: one of them has the shape [M, 1], so the "
            "difference is [M, M].",
            VALUE_SECTION,
        ),
        "of_means": Mistake(
            "It takes the maximum of two means; the maximum is taken for each sample, and then the "
            "mean.",
            VALUE_SECTION,
        ),
        "before_square": Mistake(
            "It takes the maximum of the errors before it squares them, so large negative errors "
            "lose.",
            VALUE_SECTION,
        ),
        "no_half": Mistake("The factor 1/2 is missing.", VALUE_SECTION),
        "no_clip": Mistake("The changes of the values are not clipped.", VALUE_SECTION),
        "no_maximum": Mistake(
            "It uses only the clipped value; the larger of the two errors counts.", VALUE_SECTION
        ),
        "minimum": Mistake(
            "It takes the smaller of the two errors; the larger one counts, which is the careful "
            "choice for a loss.",
            VALUE_SECTION,
        ),
        "clipped_value": Mistake(
            "It clips the value itself; its change since the rollout has to be clipped.",
            VALUE_SECTION,
        ),
        "only_change": Mistake(
            "V_clip is only the clipped change; V_old has to be added.", VALUE_SECTION
        ),
        "relative": Mistake(
            "It clips the quotient of new and old value, as for probabilities; for values it is "
            "the difference.",
            VALUE_SECTION,
        ),
        "absolute": Mistake("It uses absolute errors; they have to be squared.", VALUE_SECTION),
        "sum": Mistake("It takes the sum over the samples; the mean is needed.", VALUE_SECTION),
    },
    place=Place(
        losses,
        "value_loss",
        lambda f: lambda new, old, targets, clip_coef, clip: f(new, old, targets, clip_coef),
    ),
    other="no_half",
    settings={"clip_vloss": True},
    learned=(0,),
)


def _total_loss(
    wrong: Wrong,
    policy_loss: Tensor,
    entropy: Tensor,
    value_loss: Tensor,
    ent_coef: Tensor,
    vf_coef: Tensor,
) -> Tensor:
    if "swapped" in wrong:
        ent_coef, vf_coef = vf_coef, ent_coef
    if "order" in wrong:
        entropy, value_loss = value_loss, entropy
    if "fixed" in wrong:
        ent_coef, vf_coef = torch.tensor(0.01), torch.tensor(0.5)
    bonus, regression = ent_coef * entropy, vf_coef * value_loss
    if "both" in wrong:
        bonus = vf_coef * bonus
    if "half" in wrong:
        regression = 0.5 * regression
    if "average" in wrong:
        return (policy_loss - bonus + regression) / 3.0
    bonus = entropy if "no_ent_coef" in wrong else bonus
    regression = value_loss if "no_vf_coef" in wrong else regression
    if "no_entropy" in wrong:
        bonus = torch.zeros_like(bonus)
    if "no_value" in wrong:
        regression = torch.zeros_like(regression)
    policy = -policy_loss if "policy_sign" in wrong else policy_loss
    if "entropy_sign" in wrong:
        bonus = -bonus
    return policy - bonus - regression if "value_sign" in wrong else policy - bonus + regression


def _scalars(*values: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value) for value in values)


def with_total(total: Function) -> Function:
    """Return a `ppo_loss` with another sum of its three parts.

    The loss is linear in its two weights, so three losses with weights 0 and 1 give the parts.
    """

    ours: Function = ppo_loss

    def with_other_sum(*inputs: Any) -> losses.LossTerms:
        *samples, coefficients = inputs

        def with_weights(entropy: float, value: float) -> losses.LossTerms:
            weights = {"ent_coef": torch.tensor(entropy), "vf_coef": torch.tensor(value)}
            return ours(*samples, coefficients._replace(**weights))

        terms = with_weights(0.0, 0.0)
        policy = terms.loss
        entropy = policy - with_weights(1.0, 0.0).loss
        regression = with_weights(0.0, 1.0).loss - policy
        weights = coefficients.ent_coef, coefficients.vf_coef
        return terms._replace(loss=total(policy, entropy, regression, *weights))

    return with_other_sum


SUM_SECTION = "One loss"
TOTAL_LOSS = Exercise(
    name="total_loss",
    lesson="loss",
    signature=(
        "total_loss(policy_loss: Tensor, entropy: Tensor, value_loss: Tensor, ent_coef: Tensor, "
        "vf_coef: Tensor) -> Tensor"
    ),
    text="""Add the three parts of the loss, with their weights.

L = L_pi - c_ent * H + c_v * L_V

policy_loss, entropy, value_loss: L_pi, the mean H, and L_V.  ent_coef, vf_coef: c_ent and c_v.
All are 0-d tensors.""",
    cases=lambda: [
        Case("with simple numbers", _scalars(1.0, 2.0, 4.0, 0.5, 0.25)),
        Case("with usual numbers", _scalars(-0.03, 1.6, 0.12, 0.01, 0.5)),
        Case("without an entropy bonus", _scalars(0.3, 1.2, 0.7, 0.0, 1.0)),
    ],
    oracle=lambda policy, entropy, value, c_ent, c_v: torch.tensor(
        float(policy) - float(c_ent) * float(entropy) + float(c_v) * float(value)
    ),
    solve=_total_loss,
    mistakes={
        "entropy_sign": Mistake(
            "It adds the entropy, which would make it small, because a loss is minimized. It has "
            "to be subtracted.",
            SUM_SECTION,
        ),
        "value_sign": Mistake(
            "It subtracts the value loss, which would make the values worse.", SUM_SECTION
        ),
        "policy_sign": Mistake(
            "It subtracts the policy loss, which has its minus sign already.", SUM_SECTION
        ),
        "swapped": Mistake("The two weights are swapped.", SUM_SECTION),
        "order": Mistake(
            "It takes the arguments in another order: the second is the entropy, the third the "
            "value loss.",
            SUM_SECTION,
        ),
        "fixed": Mistake(
            "It uses 0.01 and 0.5 always, and not the weights that it is given.", SUM_SECTION
        ),
        "both": Mistake(
            "The weight of the value loss multiplies the entropy bonus, too.", SUM_SECTION
        ),
        "half": Mistake(
            "It multiplies the value loss by 1/2, which that has already.", SUM_SECTION
        ),
        "average": Mistake("It divides the sum by 3.", SUM_SECTION),
        "no_ent_coef": Mistake("The weight of the entropy is missing.", SUM_SECTION),
        "no_vf_coef": Mistake("The weight of the value loss is missing.", SUM_SECTION),
        "no_entropy": Mistake("The entropy is missing.", SUM_SECTION),
        "no_value": Mistake("The value loss is missing.", SUM_SECTION),
    },
    place=Place(update, "ppo_loss", with_total),
    other="value_sign",
    learned=(0, 1, 2),
)

EXERCISES = (RATIO, POLICY_LOSS, VALUE_LOSS, TOTAL_LOSS)
