"""Studies of the paper's claims: minutes to hours, run by hand, written up in docs/."""
