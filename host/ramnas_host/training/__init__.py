"""Trains the weight-sharing supernet and evaluates its subnets."""
