"""Exercises on real numbers as actions: the Gaussian policy."""

import torch
from torch import Tensor

from ...algorithm.distributions import LOG_2PI, Gaussian
from .. import oracle
from ..exercise import Case, Exercise, Function, Mistake, Place, Wrong, normal, numbers

NORMAL, SEVERAL = "The normal distribution", "Several numbers at once"
INPUTS = (
    "mean: [B, D], one for each of D dimensions of an action.\n"
    "log_std: [D], the logarithm of the standard deviation, the same for all observations."
)


def _log_prob(wrong: Wrong, mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    if "half_std" in wrong:
        log_std = log_std / 2.0
    std = log_std.exp()
    if "std_is_log" in wrong:
        std = log_std
    if "variance" in wrong:
        std = std.square()
    deviations = (actions - mean) if "not_scaled" in wrong else (actions - mean) / std
    terms = -0.5 * deviations.square()
    if "not_squared_std" in wrong:
        terms = terms * std
    if "no_half" in wrong:
        terms = -deviations.square()
    dimensions = mean.shape[-1]
    if "log_std_mean" in wrong:
        log_std = log_std.mean() / dimensions
    if "no_log_std" not in wrong:
        terms = terms + log_std if "log_std_sign" in wrong else terms - log_std
    if "no_constant" not in wrong:
        terms = terms - 0.5 * LOG_2PI / (dimensions if "constant_once" in wrong else 1)
    if "underflow" in wrong:
        return terms.exp().prod(-1).log()
    if "each" in wrong:
        return terms
    if "mean" in wrong:
        return terms.mean(-1)
    if "over_observations" in wrong:
        return terms.sum(0)
    if "density" in wrong:
        return terms.sum(-1).exp()
    return -terms.sum(-1) if "sign" in wrong else terms.sum(-1)


def _by_hand(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    rows = zip(mean.tolist(), actions.tolist(), strict=True)
    return torch.tensor(
        [
            sum(
                oracle.normal_log_prob(m, s, a)
                for m, s, a in zip(means, log_std.tolist(), action, strict=True)
            )
            for means, action in rows
        ]
    )


def _cases() -> list[tuple[str, Tensor, Tensor, Tensor]]:
    r = numbers(51)
    one = torch.zeros(1, 1)
    return [
        ("at the mean, with a standard deviation of 1", one, torch.zeros(1), one),
        ("beside the mean", one, torch.zeros(1), torch.ones(1, 1)),
        ("with a standard deviation of e", one, torch.ones(1), torch.ones(1, 1)),
        ("far from the mean", torch.zeros(1, 2), torch.zeros(2), torch.full((1, 2), 30.0)),
        ("in several dimensions", normal(r, 4, 2), normal(r, 2), normal(r, 4, 2)),
        ("with as many observations as dimensions", normal(r, 3, 3), normal(r, 3), normal(r, 3, 3)),
    ]


GAUSSIAN_LOG_PROB = Exercise(
    name="gaussian_log_prob",
    lesson="continuous",
    signature="gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor",
    text=f"""Compute log pi(a|s), [B]: the log density of each action, summed over its dimensions.

log N(a; mean, std) = -((a - mean) / std)^2 / 2 - log std - log(2 pi) / 2

{INPUTS}
actions: [B, D].""",
    cases=lambda: [Case(about, inputs) for about, *inputs in _cases()],  # type: ignore[arg-type]
    oracle=_by_hand,
    solve=_log_prob,
    mistakes={
        "std_is_log": Mistake(
            "It takes log_std as the standard deviation; exp of it is missing.", NORMAL
        ),
        "half_std": Mistake(
            "It takes log_std as the logarithm of the variance; it is that of the standard "
            "deviation.",
            NORMAL,
        ),
        "not_squared_std": Mistake(
            "It squares only the deviation; the standard deviation under it is squared as well.",
            NORMAL,
        ),
        "log_std_mean": Mistake(
            "It subtracts the mean of log std only once; each dimension has its own.", SEVERAL
        ),
        "constant_once": Mistake(
            "It subtracts log(2 pi) / 2 only once; each dimension has it.", SEVERAL
        ),
        "underflow": Mistake(
            "It multiplies densities and takes the logarithm then: far from the mean they are "
            "rounded to 0. Add the logarithms instead.",
            SEVERAL,
        ),
        "variance": Mistake("It divides by the variance, not by its root.", NORMAL),
        "not_scaled": Mistake(
            "It does not divide the deviation by the standard deviation.", NORMAL
        ),
        "no_half": Mistake("The factor 1/2 of the squared deviation is missing.", NORMAL),
        "no_log_std": Mistake(
            "The term -log std is missing: without it a wide distribution costs nothing.", NORMAL
        ),
        "log_std_sign": Mistake(
            "It adds log std; it has to be subtracted, because a wide distribution is flat.", NORMAL
        ),
        "no_constant": Mistake(
            "The term -log(2 pi) / 2 is missing. It cancels in the ratio, but a density has it.",
            NORMAL,
        ),
        "each": Mistake(
            "It gives a number for each dimension; the dimensions are independent, so their "
            "log-probabilities have to be added.",
            SEVERAL,
        ),
        "mean": Mistake(
            "It takes the mean over the dimensions; independent log-probabilities are added.",
            SEVERAL,
        ),
        "over_observations": Mistake(
            "It adds over the observations; the sum is over the dimensions, the last axis.", SEVERAL
        ),
        "density": Mistake("It gives the density; its logarithm is needed.", NORMAL),
        "sign": Mistake("It has the wrong sign.", NORMAL),
    },
    place=Place(
        Gaussian,
        "log_prob",
        lambda f: lambda policy, actions: f(policy.mean, policy.log_std, actions),
    ),
    other="sign",
    task="aim",
    learned=(0, 1),
)


def _sample(wrong: Wrong, mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    std = log_std if "std_is_log" in wrong else log_std.exp()
    if "half_std" in wrong:
        std = std.sqrt()
    if "variance" in wrong:
        std = std.square()
    if "one_std" in wrong:
        std = std.mean()
    if "first_noise" in wrong:
        noise = noise[:1]
    if "one_noise" in wrong:
        noise = noise[:, :1]
    if "no_mean" in wrong:
        return std * noise
    if "no_noise" in wrong:
        return mean.clone()
    if "scaled_mean" in wrong:
        return std * (mean + noise)
    result = mean - std * noise if "minus" in wrong else mean + std * noise
    if "clipped" in wrong:
        return result.clamp(-1.0, 1.0)
    return result.tanh() if "squashed" in wrong else result


def with_noise(sample: Function) -> Function:
    """Return a `Gaussian.sample` that gives another function normal numbers."""

    def from_uniforms(policy: Gaussian, uniforms: Tensor) -> Tensor:
        noise = torch.special.ndtri(uniforms.double() + 2.0**-25).to(policy.mean.dtype)
        return sample(policy.mean, policy.log_std, noise)

    return from_uniforms


GAUSSIAN_SAMPLE = Exercise(
    name="gaussian_sample",
    lesson="continuous",
    signature="gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor",
    text=f"""Sample an action for each observation, [B, D].

a = mean + std * noise

{INPUTS}
noise: [B, D], random numbers of the standard normal distribution.""",
    cases=lambda: [Case(about, (mean, log_std, noise)) for about, mean, log_std, noise in _cases()],
    oracle=lambda mean, log_std, noise: torch.tensor(
        [
            [
                m + 2.718281828459045**s * n
                for m, s, n in zip(means, log_std.tolist(), draws, strict=True)
            ]
            for means, draws in zip(mean.tolist(), noise.tolist(), strict=True)
        ]
    ),
    solve=_sample,
    mistakes={
        "std_is_log": Mistake(
            "It takes log_std as the standard deviation; exp of it is missing.", NORMAL
        ),
        "variance": Mistake("It uses the variance instead of the standard deviation.", NORMAL),
        "half_std": Mistake(
            "It takes log_std as the logarithm of the variance; it is that of the standard "
            "deviation.",
            NORMAL,
        ),
        "one_std": Mistake(
            "It uses one standard deviation for all dimensions; each has its own.", SEVERAL
        ),
        "first_noise": Mistake(
            "All observations get the noise of the first one; each has its own.", SEVERAL
        ),
        "clipped": Mistake(
            "It clips the action to -1 ... 1; that is done later, in the environment.", NORMAL
        ),
        "one_noise": Mistake(
            "It uses the same random number in all dimensions; each has its own.", SEVERAL
        ),
        "no_mean": Mistake("The mean is missing.", NORMAL),
        "no_noise": Mistake("It gives the mean: nothing is random, so nothing is tried.", NORMAL),
        "scaled_mean": Mistake("It multiplies the mean by the standard deviation, too.", NORMAL),
        "minus": Mistake(
            "It subtracts the noise. The distribution is the same, but the exercise asks for the "
            "sum.",
            NORMAL,
        ),
        "squashed": Mistake(
            "It applies tanh to the action; then log_prob would be another one, too. ppo37 clips "
            "actions in the environment instead.",
            NORMAL,
        ),
    },
    place=Place(Gaussian, "sample", with_noise),
    other="no_noise",
    task="aim",
)

EXERCISES = (GAUSSIAN_LOG_PROB, GAUSSIAN_SAMPLE)
