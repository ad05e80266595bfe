"""A session: all that surrounds the training loop, and what a run leaves on disk."""
