"""Cuts one network out of the supernet and trains it for a task."""
