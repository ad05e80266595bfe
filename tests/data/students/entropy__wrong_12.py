# MISTAKE: Divides by log A, so that the entropy is normalized to 0 ... 1.
import math

import torch
from torch.distributions import Categorical


def entropy(logits):
    return Categorical(logits=logits).entropy() / math.log(max(logits.size(-1), 2))
