"""The command `ramnas`, one verb per file, and the demo."""
