"""One network cut out of the supernet and trained for a task."""
