"""Networks: observations in, a distribution over actions and a value out."""
