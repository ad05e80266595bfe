# MISTAKE: Adds the value after the rollout to all steps.
import torch


def value_targets(advantages, values):
    return advantages + values[-1]
