"""Boxes and masks as people write them -> splits that are read and checked once."""
