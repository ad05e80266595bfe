"""Exercises on the policy: choosing actions, log-probabilities and E4, the entropy."""

import math

import torch
from torch import Tensor

from ...algorithm.distributions import Categorical
from .. import oracle
from ..exercise import Case, Exercise, Mistake, Place, Wrong, normal, numbers

CHOOSING, PROBABILITIES, ENTROPY_SECTION = (
    "Choosing an action",
    "From logits to probabilities",
    "Entropy",
)
LOGITS = "logits: [B, A], finite, unnormalized log-probabilities of A actions for B observations."


def _logits() -> list[tuple[str, Tensor]]:
    """Return logits, with what is special about them."""
    r = numbers(11)
    return [
        ("for one observation and two actions", torch.tensor([[0.0, 1.0]])),
        ("for several observations", normal(r, 4, 3)),
        ("for as many observations as actions", normal(r, 3, 3)),
        ("with large logits", torch.tensor([[1000.0, 999.0, 0.0], [-1000.0, -1001.0, -1000.5]])),
    ]


def _probabilities(wrong: Wrong, logits: Tensor) -> Tensor:
    if "overflow" in wrong:
        return logits.exp() / logits.exp().sum(-1, keepdim=True)
    return torch.softmax(logits, dim=0 if "axis" in wrong else -1)


PROBABILITY_MISTAKES = {
    "axis": Mistake(
        "It normalizes over the observations instead of the actions: the sum over the last axis "
        "has to be 1.",
        PROBABILITIES,
    ),
    "overflow": Mistake(
        "It computes exp of the logits themselves, which is infinite for large ones; "
        "torch.log_softmax subtracts the largest logit first.",
        PROBABILITIES,
    ),
}


def _sample(wrong: Wrong, logits: Tensor, uniforms: Tensor) -> Tensor:
    if "greedy" in wrong:
        return logits.argmax(-1)
    if "uniform" in wrong:
        return (uniforms * logits.shape[-1]).long()
    probabilities = _probabilities(wrong, logits)
    if "logits" in wrong:
        probabilities = logits - logits.min(-1, keepdim=True).values
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    cumulative = probabilities.cumsum(0 if "cumsum_axis" in wrong else -1)
    if "not_cumulative" in wrong:
        cumulative = probabilities
    threshold = 1.0 - uniforms if "mirrored" in wrong else uniforms
    if "first_uniform" in wrong:
        threshold = threshold[:1].expand_as(threshold)
    chosen = (cumulative <= threshold.unsqueeze(-1)).sum(-1)
    if "less" in wrong:
        chosen = (cumulative < threshold.unsqueeze(-1)).sum(-1)
    if "above" in wrong:
        chosen = (cumulative > threshold.unsqueeze(-1)).sum(-1)
    if "next" in wrong:
        chosen = chosen + 1
    if "previous" in wrong:
        chosen = chosen - 1
    return chosen.clamp(0, logits.shape[-1] - 1)


def _sample_cases() -> list[Case]:
    r = numbers(12)
    uniforms = [torch.tensor([0.2]), *(torch.rand(n, generator=r) for n in (4, 3))]
    cases = [
        Case(about, (logits, draws))
        for (about, logits), draws in zip(_logits()[:3], uniforms, strict=True)
    ]
    many = normal(r, 1, 4).expand(200, 4).contiguous()
    cases.append(Case("for 200 equal observations", (many, torch.rand(200, generator=r))))
    certain = torch.tensor([[0.0, 200.0, 0.0], [0.0, 0.0, 200.0]])
    large, draws = _logits()[3][1], torch.tensor([0.9, 0.9])
    impossible = torch.tensor([[-1e8, 0.0, 0.0]])
    return [
        *cases,
        Case("with an action of probability 1", (certain, torch.tensor([0.25, 0.999]))),
        Case("with large logits", (large, draws)),
        Case("with an action of probability 0 and u = 0", (impossible, torch.zeros(1))),
    ]


SAMPLE = Exercise(
    name="sample",
    lesson="policy",
    signature="sample(logits: Tensor, uniforms: Tensor) -> Tensor",
    text=f"""Choose an action for each observation: action a with its probability. [B] int64.

An action is the number of cumulative probabilities that are at most u. With probabilities
.2, .5 and .3 these are .2, .7 and 1, so u = .1 chooses action 0, and u = .6 chooses action 1.

{LOGITS}
uniforms: [B], a random number u in [0, 1) for each.""",
    cases=_sample_cases,
    oracle=lambda logits, uniforms: torch.tensor(
        [oracle.sample(row, u) for row, u in zip(logits.tolist(), uniforms.tolist(), strict=True)]
    ),
    solve=_sample,
    mistakes={
        "greedy": Mistake(
            "It always takes the most likely action; then nothing else is ever tried.", CHOOSING
        ),
        "uniform": Mistake(
            "It takes each action equally often; the probabilities of the policy are not used.",
            CHOOSING,
        ),
        "axis": PROBABILITY_MISTAKES["axis"],
        "logits": Mistake(
            "It uses the logits as if they were probabilities; first they need a softmax.",
            PROBABILITIES,
        ),
        "mirrored": Mistake(
            "It compares with 1 - u. The frequencies are right, but the order of the actions is "
            "mirrored; the exercise asks for u.",
            CHOOSING,
        ),
        "not_cumulative": Mistake(
            "It compares u with the probabilities themselves, not with their cumulative sums.",
            CHOOSING,
        ),
        "cumsum_axis": Mistake(
            "It adds up over the observations; the cumulative sum is over the actions, dim=-1.",
            CHOOSING,
        ),
        "first_uniform": Mistake(
            "It uses the u of the first observation for all; each has its own.", CHOOSING
        ),
        "less": Mistake(
            "It counts cumulative probabilities below u; those equal to u count as well. Otherwise "
            "u = 0 could choose an action of probability 0.",
            CHOOSING,
        ),
        "above": Mistake(
            "It counts the cumulative probabilities above u, so the order of the actions is "
            "reversed.",
            CHOOSING,
        ),
        "overflow": PROBABILITY_MISTAKES["overflow"],
        "next": Mistake("It takes the action after the right one.", CHOOSING),
        "previous": Mistake("It takes the action before the right one.", CHOOSING),
    },
    place=Place(
        Categorical, "sample", lambda f: lambda policy, uniforms: f(policy.logits, uniforms)
    ),
    other="greedy",
)


def _log_prob(wrong: Wrong, logits: Tensor, actions: Tensor) -> Tensor:
    if wrong & {"overflow", "underflow"}:
        log_probs = _probabilities(wrong, logits).log()
    else:
        log_probs = torch.log_softmax(logits, dim=0 if "axis" in wrong else -1)
    if "logits" in wrong:
        log_probs = logits
    if "no_log" in wrong:
        log_probs = log_probs.exp()
    if "all" in wrong:
        return log_probs.clone()
    if "largest" in wrong:
        return log_probs.max(-1).values
    chosen = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    chosen = log_probs.sum(-1) if "sum" in wrong else chosen
    return -chosen if "sign" in wrong else chosen


def _log_prob_cases() -> list[Case]:
    actions = ([1], [0, 2, 1, 0], [2, 0, 0], [2, 1])
    return [
        Case(about, (logits, torch.tensor(chosen)))
        for (about, logits), chosen in zip(_logits(), actions, strict=True)
    ]


LOG_PROB = Exercise(
    name="log_prob",
    lesson="policy",
    signature="log_prob(logits: Tensor, actions: Tensor) -> Tensor",
    text=f"""Compute the log-probability log pi(a|s) of each action, [B].

{LOGITS}
actions: [B] int64, the indices of the actions that were taken.""",
    cases=_log_prob_cases,
    oracle=lambda logits, actions: torch.tensor(
        [
            oracle.log_softmax(row)[action]
            for row, action in zip(logits.tolist(), actions.tolist(), strict=True)
        ]
    ),
    solve=_log_prob,
    mistakes={
        **PROBABILITY_MISTAKES,
        "underflow": Mistake(
            "It computes the probability first and then its logarithm. A tiny probability is "
            "rounded to 0, whose logarithm is infinite; torch.log_softmax does both in one step.",
            PROBABILITIES,
        ),
        "logits": Mistake(
            "It gives the logits themselves, which are not normalized: exp of them does not sum to "
            "1.",
            PROBABILITIES,
        ),
        "no_log": Mistake("It gives the probability; its logarithm is needed.", PROBABILITIES),
        "all": Mistake(
            "It gives the log-probabilities of all actions; only that of the action that was taken "
            "is needed.",
            PROBABILITIES,
        ),
        "largest": Mistake(
            "It gives the log-probability of the most likely action, not of the action that was "
            "taken.",
            PROBABILITIES,
        ),
        "sum": Mistake(
            "It adds the log-probabilities of all actions; only that of the action that was taken "
            "counts.",
            PROBABILITIES,
        ),
        "sign": Mistake(
            "It has the wrong sign: log-probabilities are at most 0. (The negative is a loss in "
            "classification.)",
            PROBABILITIES,
        ),
    },
    place=Place(
        Categorical, "log_prob", lambda f: lambda policy, actions: f(policy.logits, actions)
    ),
    other="no_log",
    learned=(0,),
)


def _entropy(wrong: Wrong, logits: Tensor) -> Tensor:
    if wrong & {"zero", "overflow"}:
        probabilities = _probabilities(wrong, logits)
        log_probs = probabilities.log()
    else:
        log_probs = torch.log_softmax(logits, dim=0 if "axis" in wrong else -1)
        probabilities = log_probs.exp()
    if "bits" in wrong:
        log_probs = log_probs / math.log(2.0)
    if "normalized" in wrong:
        log_probs = log_probs / math.log(logits.shape[-1])
    if "raw_logits" in wrong:
        log_probs = logits
    terms = log_probs if "no_weights" in wrong else probabilities * log_probs
    if "mean_over_actions" in wrong:
        result = -terms.mean(-1)
    elif "over_observations" in wrong:
        result = -terms.sum(0)
    else:
        result = -terms.sum(-1)
    if "mean" in wrong:
        result = result.mean()
    return -result if "sign" in wrong else result


def _entropy_cases() -> list[Case]:
    even = ("where all actions are equally likely", torch.zeros(2, 6))
    first, *others = _logits()
    return [Case(about, (logits,)) for about, logits in (first, even, *others)]


ENTROPY = Exercise(
    name="entropy",
    lesson="policy",
    signature="entropy(logits: Tensor) -> Tensor",
    text=f"""Compute the entropy of the policy for each observation, [B], in nats.

H = -sum_a pi(a|s) log pi(a|s)

An action of probability 0 adds 0.

{LOGITS}""",
    cases=_entropy_cases,
    oracle=lambda logits: torch.tensor([oracle.entropy(row) for row in logits.tolist()]),
    solve=_entropy,
    mistakes={
        "axis": PROBABILITY_MISTAKES["axis"],
        "zero": Mistake(
            "It takes the logarithm of a probability that is 0, which gives nan; "
            "torch.log_softmax gives a large negative number instead, and 0 times that is 0.",
            ENTROPY_SECTION,
        ),
        "bits": Mistake(
            "It has the unit bits: it uses the logarithm to base 2. Nats use the natural one.",
            ENTROPY_SECTION,
        ),
        "normalized": Mistake(
            "It divides by log A, so that the largest entropy is 1; here it is log A.",
            ENTROPY_SECTION,
        ),
        "raw_logits": Mistake(
            "It uses the logits as if they were log-probabilities; they are not normalized.",
            PROBABILITIES,
        ),
        "overflow": PROBABILITY_MISTAKES["overflow"],
        "no_weights": Mistake(
            "It adds the log-probabilities without weights; each one has to be multiplied by its "
            "probability.",
            ENTROPY_SECTION,
        ),
        "mean_over_actions": Mistake(
            "It takes the mean over the actions; the entropy is their sum.", ENTROPY_SECTION
        ),
        "over_observations": Mistake(
            "It adds over the observations; the sum is over the actions of each observation.",
            ENTROPY_SECTION,
        ),
        "mean": Mistake(
            "It gives one number, the mean; the mean is taken later, in the loss.", ENTROPY_SECTION
        ),
        "sign": Mistake("The minus sign is missing: an entropy is at least 0.", ENTROPY_SECTION),
    },
    place=Place(Categorical, "entropy", lambda f: lambda policy: f(policy.logits)),
    other="sign",
    learned=(0,),
)

EXERCISES = (SAMPLE, LOG_PROB, ENTROPY)
