"""A session: all parts of a run around the training loop, and its files."""
