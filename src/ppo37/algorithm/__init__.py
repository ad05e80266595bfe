"""PPO as pure functions of tensors. Read rollout, advantages, losses, update, distributions."""
