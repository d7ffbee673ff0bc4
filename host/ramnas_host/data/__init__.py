"""Pictures and labels, read from the files that people have, in splits."""
