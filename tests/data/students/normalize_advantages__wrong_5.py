# MISTAKE: Missing brackets: adds 1e-8 to the quotient, so that equal advantages give NaN (0 / 0).
import torch


def normalize_advantages(adv):
    return (adv - adv.mean()) / adv.std() + 1e-8
