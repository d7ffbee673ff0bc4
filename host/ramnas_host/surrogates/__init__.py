"""A few measured archs in, a prediction for every arch out."""
