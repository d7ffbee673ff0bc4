"""Public checkpoints, downloaded by the user, into tensors by the keys of our networks (torch)."""
