"""Sends jobs to boards and takes their records back."""
