"""This board: which one it is, what its sensors read, and its clocks and power modes."""
