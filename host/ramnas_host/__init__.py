"""Trains a supernet, calibrates boards, searches for networks and bundles them. Needs torch."""
