"""Tools: what uses runs and agents, beside training."""
