"""The command `ramnas-edge`, one verb per file."""
