"""Tables, plots and one HTML page about a run."""
