"""The objective of PPO, term by term, on one minibatch.

Legend: M samples in the minibatch. Every input is fp32 (fp64 in the tests), also where the layers
of the network compute in bf16.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """The settings of the loss, named as in `Config`; those that are annealed are 0-d tensors."""

    clip_coef: Tensor
    clip_vloss: bool
    norm_adv: bool
    ent_coef: Tensor
    vf_coef: Tensor


class LossTerms(NamedTuple):
    """The loss, its parts and its diagnostics (D12), each a 0-d tensor."""

    loss: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    old_approx_kl: Tensor
    approx_kl: Tensor
    clipfrac: Tensor


def normalize_advantages(advantages: Tensor) -> Tensor:
    """Compute (A - mean) / (std + 1e-8) over the minibatch [M].

    The standard deviation divides by M - 1, as in CleanRL. openai/baselines divides by M, which
    differs by a factor of 1.00196 at M = 256.
    """
    centred = advantages - advantages.mean()
    return centred / (advantages.std(correction=1) + 1e-8)  # D07


def probability_ratio(new_log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Compute how much more likely the actions are under the new policy, [M].

    E1: rho = pi_new(a|s) / pi_old(a|s) = exp(log pi_new - log pi_old)
    """
    return (new_log_probs - old_log_probs).exp()


def policy_loss(advantages: Tensor, ratio: Tensor, clip_coef: Tensor) -> Tensor:
    """Compute the clipped objective, as a loss to minimize.

    E2: L_pi = -mean(min(rho * A, clip(rho, 1 - eps, 1 + eps) * A))
    Source: Schulman et al. 2017, equation (7).
    """
    clipped_ratio = ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef)  # D08
    return -torch.min(ratio * advantages, clipped_ratio * advantages).mean()


def value_loss(
    new_values: Tensor, old_values: Tensor, targets: Tensor, clip_coef: Tensor, clip: bool
) -> Tensor:
    """Compute the squared error of the values, with clipped changes.

    E3: L_V = 1/2 mean(max((V - R)^2, (V_clip - R)^2))
    V_clip = V_old + clip(V - V_old, -eps, +eps), with the eps of the policy. With `clip=False`
    it is 1/2 mean((V - R)^2).
    Source: openai/baselines ppo2/model.py.
    """
    error = (new_values - targets).square()
    if clip:
        step = (new_values - old_values).clamp(-clip_coef, +clip_coef)  # D09
        error = torch.max(error, (old_values + step - targets).square())
    return 0.5 * error.mean()


def ppo_loss(
    new_log_probs: Tensor,
    entropies: Tensor,
    new_values: Tensor,
    old_log_probs: Tensor,
    old_values: Tensor,
    advantages: Tensor,
    targets: Tensor,
    coefficients: Coefficients,
) -> LossTerms:
    """Compute the one loss that trains policy and value together; every input is [M].

    E5: L = L_pi - c_ent * mean(H) + c_v * L_V
    Two estimates of the KL divergence between old and new policy are returned beside it:
    `old_approx_kl` = mean(-log rho) and `approx_kl` = mean(rho - 1 - log rho), which are k1 and k3
    of http://joschu.net/blog/kl-approx.html. `clipfrac` is the part of the samples whose ratio is
    outside of the clip range.
    """
    clip_coef = coefficients.clip_coef
    if coefficients.norm_adv:
        advantages = normalize_advantages(advantages)  # D07
    ratio = probability_ratio(new_log_probs, old_log_probs)
    surrogate = policy_loss(advantages, ratio, clip_coef)
    regression = value_loss(new_values, old_values, targets, clip_coef, coefficients.clip_vloss)
    entropy = entropies.mean()
    loss = surrogate - coefficients.ent_coef * entropy + coefficients.vf_coef * regression  # D10
    with torch.no_grad():
        log_ratio = new_log_probs - old_log_probs
        old_approx_kl = (-log_ratio).mean()
        approx_kl = (ratio - 1.0 - log_ratio).mean()  # D12
        clipfrac = ((ratio - 1.0).abs() > clip_coef).to(ratio.dtype).mean()  # D12
    parts = (loss, surrogate, regression, entropy, old_approx_kl, approx_kl, clipfrac)
    return LossTerms(*(part if part is loss else part.detach() for part in parts))
