"""Training of the weight-sharing supernet, and its accuracy."""
