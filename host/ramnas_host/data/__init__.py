"""Pictures and labels as people have them, in splits."""
