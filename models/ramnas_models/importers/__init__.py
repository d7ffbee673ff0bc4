"""Public checkpoints, which the user downloaded -> tensors by the keys of our networks (torch)."""
