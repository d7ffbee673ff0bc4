"""Train a supernet, calibrate boards, fit surrogates, search, bundle. Needs torch."""
