"""Run a network on the robot: measure it, serve it within a latency budget. No torch."""
