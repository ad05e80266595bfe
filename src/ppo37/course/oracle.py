"""The oracle: PPO in scalar float64 arithmetic, written directly from the equations.

The tests and the examiner of the course compare with it, so it shares nothing with the package: no
tensors, no autograd, no broadcasting, only `math` and loops over lists of floats. Gradients are
derived by hand, with the derivation beside them. The code is slow and simple on purpose.

Legend: T steps, N environments, M samples, F features, H hidden units, A actions.
Equations E1 to E9 are those of the package: E1 ratio, E2 clipped objective, E3 value loss,
E4 entropy, E5 total, E6 delta, E7 advantage recursion, E8 value target, E9 schedule.
"""

import math
from typing import NamedTuple

Floats = list[float]
Weights = dict[str, Floats]


class Settings(NamedTuple):
    """The choices that the equations leave open."""

    gamma: float = 0.99
    gae_lambda: float = 0.95
    bootstrap_truncated: bool = True
    num_minibatches: int = 4
    norm_adv: bool = True
    norm_adv_ddof: int = 1
    clip_coef: float = 0.1
    clip_vloss: bool = True
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    # Clipped gradients are scaled by max / (norm + eps): 1e-6 in PyTorch, 0 in TensorFlow.
    grad_norm_eps: float = 1e-6
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-5


def mean(numbers: Floats) -> float:
    return math.fsum(numbers) / len(numbers)


def variance(numbers: Floats, ddof: int) -> float:
    """Return the sum of squared deviations, divided by len - ddof."""
    center = mean(numbers)
    return math.fsum((x - center) ** 2 for x in numbers) / (len(numbers) - ddof)


def linear(initial: float, update: int, num_updates: int) -> float:
    """Compute E9, with updates counted from 0: from `initial` down to `initial / num_updates`."""
    return initial * (num_updates - update) / num_updates


# ---- advantages of one environment: rewards, dones [T]; values [T+1] ----


def deltas(rewards: Floats, values: Floats, dones: Floats, gamma: float) -> Floats:
    """Compute E6, the errors of single steps; the value after the end of an episode is 0."""
    errors = []
    for t, reward in enumerate(rewards):
        future = 0.0 if dones[t] else gamma * values[t + 1]
        errors.append(reward + future - values[t])
    return errors


def gae_by_recursion(
    rewards: Floats, values: Floats, dones: Floats, gamma: float, gae_lambda: float
) -> Floats:
    """Compute E7 from the last step to the first, with A_{t+1} = 0 after a done."""
    errors = deltas(rewards, values, dones, gamma)
    advantages = [0.0] * len(rewards)
    advantage = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        if dones[t]:
            advantage = 0.0
        advantage = errors[t] + gamma * gae_lambda * advantage
        advantages[t] = advantage
    return advantages


def gae_by_definition(
    rewards: Floats, values: Floats, dones: Floats, gamma: float, gae_lambda: float
) -> Floats:
    """Compute the sum over k of (gamma lambda)^k delta_{t+k}, up to a done or the end; O(T^2)."""
    errors = deltas(rewards, values, dones, gamma)
    advantages = []
    for t in range(len(rewards)):
        last = _last_step_of_episode(dones, t)
        terms = [(gamma * gae_lambda) ** k * errors[t + k] for k in range(last - t + 1)]
        advantages.append(math.fsum(terms))
    return advantages


def n_step_return(
    rewards: Floats, values: Floats, dones: Floats, gamma: float, t: int, n: int
) -> float:
    """Compute r_t + gamma r_{t+1} + ... + gamma^n V(s_{t+n}), where V is 0 after a done."""
    discounted = math.fsum(gamma**k * rewards[t + k] for k in range(n))
    if dones[t + n - 1]:
        return discounted
    return discounted + gamma**n * values[t + n]


def lambda_returns(
    rewards: Floats, values: Floats, dones: Floats, gamma: float, gae_lambda: float
) -> Floats:
    """Compute E8 by its definition, the lambda-weighted mean of n-step returns; O(T^3).

    (1 - lambda) * sum of lambda^(n-1) G_n, where the longest return gets the remaining weight.
    Source: Sutton and Barto 2018, equation (12.3).
    """
    targets = []
    for t in range(len(rewards)):
        longest = _last_step_of_episode(dones, t) - t + 1
        returns = [
            n_step_return(rewards, values, dones, gamma, t, n) for n in range(1, longest + 1)
        ]
        weights = [(1.0 - gae_lambda) * gae_lambda**k for k in range(longest - 1)]
        weights.append(gae_lambda ** (longest - 1))
        targets.append(math.fsum(w * g for w, g in zip(weights, returns, strict=True)))
    return targets


def _last_step_of_episode(dones: Floats, t: int) -> int:
    while t < len(dones) - 1 and not dones[t]:
        t += 1
    return t


# ---- the distribution: logits [A] ----


def log_softmax(logits: Floats) -> Floats:
    """Compute log p_j; the largest logit is subtracted first, so that nothing overflows."""
    highest = max(logits)
    log_total = math.log(math.fsum(math.exp(x - highest) for x in logits))
    return [(x - highest) - log_total for x in logits]


def entropy(logits: Floats) -> float:
    """Compute E4, -sum of p log p, where p = 0 contributes nothing."""
    log_probs = log_softmax(logits)
    return -math.fsum(math.exp(lp) * lp for lp in log_probs if math.exp(lp) > 0.0)


def log_prob_gradient(logits: Floats, action: int) -> Floats:
    """Compute d log p_a / d logit_j = [j = a] - p_j."""
    probs = [math.exp(lp) for lp in log_softmax(logits)]
    return [(1.0 if j == action else 0.0) - p for j, p in enumerate(probs)]


def entropy_gradient(logits: Floats) -> Floats:
    """Compute dH / d logit_j = -p_j (log p_j + H).

    From dH/dp_k = -(log p_k + 1) and dp_k/dlogit_j = p_k ([k = j] - p_j).
    """
    log_probs = log_softmax(logits)
    h = entropy(logits)
    return [-math.exp(lp) * (lp + h) for lp in log_probs]


def sample(logits: Floats, uniform: float) -> int:
    """Return the first action whose cumulative probability is above `uniform` in [0, 1)."""
    cumulative = 0.0
    for action, log_prob in enumerate(log_softmax(logits)):
        cumulative += math.exp(log_prob)
        if uniform < cumulative:
            return action
    return len(logits) - 1


def normal_log_prob(mean: float, log_std: float, action: float) -> float:
    """Compute the logarithm of the density of a normal distribution."""
    variance = math.exp(log_std) ** 2
    return -((action - mean) ** 2) / (2.0 * variance) - 0.5 * math.log(2.0 * math.pi * variance)


# ---- the loss: every list [M] ----


class Terms(NamedTuple):
    """The loss, its parts, and the diagnostics."""

    loss: float
    policy_loss: float
    value_loss: float
    entropy: float
    old_approx_kl: float
    approx_kl: float
    clipfrac: float


class Olds(NamedTuple):
    """The values of a minibatch that were computed in the rollout."""

    log_probs: Floats
    values: Floats
    advantages: Floats
    targets: Floats


def normalize(advantages: Floats, ddof: int) -> Floats:
    """Compute (A - mean) / (std + 1e-8), where the variance is divided by M - ddof."""
    center = mean(advantages)
    scale = math.sqrt(variance(advantages, ddof)) + 1e-8
    return [(a - center) / scale for a in advantages]


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def surrogate(ratio: float, advantage: float, eps: float) -> float:
    """Compute E2 for one sample, to be maximized."""
    return min(ratio * advantage, clip(ratio, 1.0 - eps, 1.0 + eps) * advantage)


def surrogate_slope(ratio: float, advantage: float, eps: float) -> float:
    """Compute d surrogate / d ratio: A, or 0 beyond the clip range in the direction of A."""
    if advantage > 0.0 and ratio > 1.0 + eps:
        return 0.0
    if advantage < 0.0 and ratio < 1.0 - eps:
        return 0.0
    return advantage


def value_error(value: float, old: float, target: float, eps: float, clipped: bool) -> float:
    """Compute E3 for one sample without its factor 1/2: a squared error."""
    error = (value - target) ** 2
    if not clipped:
        return error
    near = old + clip(value - old, -eps, eps)
    return max(error, (near - target) ** 2)


def value_error_slope(value: float, old: float, target: float, eps: float, clipped: bool) -> float:
    """Compute d value_error / d value: 2 (V - R), or 0 if the clipped error is larger.

    The clipped value is constant in V outside old +- eps and equal to V inside.
    """
    near = old + clip(value - old, -eps, eps)
    outside = abs(value - old) > eps
    if clipped and outside and (near - target) ** 2 > (value - target) ** 2:
        return 0.0
    return 2.0 * (value - target)


def ppo_loss(
    log_probs: Floats, entropies: Floats, values: Floats, olds: Olds, s: Settings
) -> Terms:
    """Compute E5 and all its terms."""
    samples = range(len(log_probs))
    advantages = normalize(olds.advantages, s.norm_adv_ddof) if s.norm_adv else olds.advantages
    log_ratios = [log_probs[i] - olds.log_probs[i] for i in samples]
    ratios = [math.exp(x) for x in log_ratios]  # E1
    policy = -mean([surrogate(ratios[i], advantages[i], s.clip_coef) for i in samples])
    errors = [
        value_error(values[i], olds.values[i], olds.targets[i], s.clip_coef, s.clip_vloss)
        for i in samples
    ]
    value = mean(errors) / 2.0
    bonus = mean(entropies)
    return Terms(
        loss=policy - s.ent_coef * bonus + s.vf_coef * value,
        policy_loss=policy,
        value_loss=value,
        entropy=bonus,
        old_approx_kl=-mean(log_ratios),
        approx_kl=mean([(ratios[i] - 1.0) - log_ratios[i] for i in samples]),
        clipfrac=mean([1.0 if abs(ratio - 1.0) > s.clip_coef else 0.0 for ratio in ratios]),
    )


def ppo_loss_gradient(
    log_probs: Floats, values: Floats, olds: Olds, s: Settings
) -> tuple[Floats, Floats, Floats]:
    """Compute the derivatives of E5 by each log-probability, entropy and value, [M] each.

    d ratio / d log-probability is the ratio itself; each term is a mean over the M samples.
    """
    m = len(log_probs)
    advantages = normalize(olds.advantages, s.norm_adv_ddof) if s.norm_adv else olds.advantages
    by_log_prob, by_value = [], []
    for i in range(m):
        ratio = math.exp(log_probs[i] - olds.log_probs[i])
        by_log_prob.append(-surrogate_slope(ratio, advantages[i], s.clip_coef) * ratio / m)
        slope = value_error_slope(
            values[i], olds.values[i], olds.targets[i], s.clip_coef, s.clip_vloss
        )
        by_value.append(s.vf_coef * 0.5 * slope / m)
    return by_log_prob, [-s.ent_coef / m] * m, by_value


def explained_variance(values: Floats, targets: Floats) -> float:
    """Compute 1 - Var(R - V) / Var(R)."""
    residuals = [r - v for r, v in zip(targets, values, strict=True)]
    return 1.0 - variance(residuals, 0) / variance(targets, 0)


# ---- a network with one hidden tanh layer, shared by a policy head and a value head ----
#
# weights: "hidden.weight" [H*F], "hidden.bias" [H], "policy.weight" [A*H], "policy.bias" [A],
# "value.weight" [H], "value.bias" [1]; matrices row by row, one row for each output.


class Output(NamedTuple):
    """The output of the network for one sample."""

    hidden: Floats
    logits: Floats
    value: float


def affine(weights: Weights, layer: str, inputs: Floats) -> Floats:
    matrix, width = weights[f"{layer}.weight"], len(inputs)
    return [
        bias + math.fsum(matrix[row * width + k] * inputs[k] for k in range(width))
        for row, bias in enumerate(weights[f"{layer}.bias"])
    ]


def forward(weights: Weights, features: Floats) -> Output:
    hidden = [math.tanh(x) for x in affine(weights, "hidden", features)]
    return Output(hidden, affine(weights, "policy", hidden), affine(weights, "value", hidden)[0])


def backward(
    gradients: Weights,
    weights: Weights,
    features: Floats,
    hidden: Floats,
    by_logits: Floats,
    by_value: float,
) -> None:
    """Add the gradients of one sample, from the derivatives by its logits and its value.

    For y = W x + b: dL/dW_jk = dL/dy_j x_k, dL/db_j = dL/dy_j, dL/dx_k = sum_j dL/dy_j W_jk;
    for h = tanh(z): dL/dz = dL/dh (1 - h^2).
    """
    width = len(hidden)
    by_inner = []
    for k, h in enumerate(hidden):
        by_hidden = by_value * weights["value.weight"][k]
        for j, by_logit in enumerate(by_logits):
            by_hidden += by_logit * weights["policy.weight"][j * width + k]
        by_inner.append(by_hidden * (1.0 - h * h))
    _add_affine_gradient(gradients, "policy", by_logits, hidden)
    _add_affine_gradient(gradients, "value", [by_value], hidden)
    _add_affine_gradient(gradients, "hidden", by_inner, features)


def _add_affine_gradient(
    gradients: Weights, layer: str, by_outputs: Floats, inputs: Floats
) -> None:
    width = len(inputs)
    for j, by_output in enumerate(by_outputs):
        gradients[f"{layer}.bias"][j] += by_output
        for k, x in enumerate(inputs):
            gradients[f"{layer}.weight"][j * width + k] += by_output * x


# ---- learning ----


class Sample(NamedTuple):
    """One step of one environment, with its advantage and target."""

    features: Floats
    action: int
    log_prob: float
    value: float
    advantage: float
    target: float


class Rollout(NamedTuple):
    """The results of a rollout: lists [T][N], and [T+1][N] for values."""

    obs: list[list[Floats]]
    actions: list[list[int]]
    log_probs: list[Floats]
    values: list[Floats]
    rewards: list[Floats]
    dones: list[Floats]
    final_values: list[Floats]


def make_batch(rollout: Rollout, s: Settings) -> list[Sample]:
    """Return the samples by time, then by environment: sample t * N + n."""
    num_steps, num_envs = len(rollout.rewards), len(rollout.rewards[0])
    columns = []
    for n in range(num_envs):
        rewards = [row[n] for row in rollout.rewards]
        if s.bootstrap_truncated:
            rewards = [
                r + s.gamma * row[n] for r, row in zip(rewards, rollout.final_values, strict=True)
            ]
        values = [row[n] for row in rollout.values]
        dones = [row[n] for row in rollout.dones]
        columns.append(gae_by_definition(rewards, values, dones, s.gamma, s.gae_lambda))
    samples = []
    for t in range(num_steps):
        for n in range(num_envs):
            value, advantage = rollout.values[t][n], columns[n][t]
            samples.append(
                Sample(
                    rollout.obs[t][n],
                    rollout.actions[t][n],
                    rollout.log_probs[t][n],
                    value,
                    advantage,
                    advantage + value,
                )
            )
    return samples


def zeros_like(weights: Weights) -> Weights:
    return {name: [0.0] * len(numbers) for name, numbers in weights.items()}


class Adam:
    """Kingma and Ba 2015, algorithm 1, over every weight."""

    def __init__(self, weights: Weights) -> None:
        self.steps = 0
        self.first = zeros_like(weights)
        self.second = zeros_like(weights)

    def step(self, weights: Weights, gradients: Weights, learning_rate: float, s: Settings) -> None:
        self.steps += 1
        beta1, beta2 = s.adam_betas
        for name, gradient in gradients.items():
            first, second = self.first[name], self.second[name]
            for i, g in enumerate(gradient):
                first[i] = beta1 * first[i] + (1.0 - beta1) * g
                second[i] = beta2 * second[i] + (1.0 - beta2) * g * g
                unbiased_first = first[i] / (1.0 - beta1**self.steps)
                unbiased_second = second[i] / (1.0 - beta2**self.steps)
                step = unbiased_first / (math.sqrt(unbiased_second) + s.adam_eps)
                weights[name][i] -= learning_rate * step


def global_norm(gradients: Weights) -> float:
    """Return the 2-norm of all gradients together."""
    return math.sqrt(math.fsum(g * g for numbers in gradients.values() for g in numbers))


def loss_and_gradients(
    weights: Weights, samples: list[Sample], s: Settings
) -> tuple[Terms, Weights]:
    """Compute E5 on a minibatch and its gradient by every weight, before clipping."""
    outputs = [forward(weights, sample.features) for sample in samples]
    log_probs = [
        log_softmax(out.logits)[sample.action] for out, sample in zip(outputs, samples, strict=True)
    ]
    entropies = [entropy(out.logits) for out in outputs]
    values = [out.value for out in outputs]
    olds = Olds(
        [sample.log_prob for sample in samples],
        [sample.value for sample in samples],
        [sample.advantage for sample in samples],
        [sample.target for sample in samples],
    )
    terms = ppo_loss(log_probs, entropies, values, olds, s)
    by_log_prob, by_entropy, by_value = ppo_loss_gradient(log_probs, values, olds, s)
    gradients = zeros_like(weights)
    for i, (out, sample) in enumerate(zip(outputs, samples, strict=True)):
        from_log_prob = log_prob_gradient(out.logits, sample.action)
        from_entropy = entropy_gradient(out.logits)
        by_logits = [
            by_log_prob[i] * lp + by_entropy[i] * h
            for lp, h in zip(from_log_prob, from_entropy, strict=True)
        ]
        backward(gradients, weights, sample.features, out.hidden, by_logits, by_value[i])
    return terms, gradients


def train_step(
    weights: Weights, adam: Adam, samples: list[Sample], learning_rate: float, s: Settings
) -> tuple[Terms, float]:
    """Take a step of Adam in place. Returns the terms and the gradient's norm before clipping."""
    terms, gradients = loss_and_gradients(weights, samples, s)
    norm = global_norm(gradients)
    scale = min(1.0, s.max_grad_norm / (norm + s.grad_norm_eps))
    clipped = {name: [g * scale for g in numbers] for name, numbers in gradients.items()}
    adam.step(weights, clipped, learning_rate, s)
    return terms, norm


def update(
    weights: Weights,
    adam: Adam,
    samples: list[Sample],
    permutations: list[list[int]],
    learning_rate: float,
    s: Settings,
) -> tuple[list[Terms], Floats]:
    """Run all epochs in place. Returns the terms and the gradient norm of each minibatch."""
    size = len(samples) // s.num_minibatches
    assert size * s.num_minibatches == len(samples)
    history, norms = [], []
    for order in permutations:
        for start in range(0, len(samples), size):
            chosen = [samples[i] for i in order[start : start + size]]
            terms, norm = train_step(weights, adam, chosen, learning_rate, s)
            history.append(terms)
            norms.append(norm)
    return history, norms
