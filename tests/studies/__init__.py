"""Studies of the paper's claims. They take minutes to hours; docs/ has their results."""
