"""This board: which one it is, how it runs now, and its clocks."""
