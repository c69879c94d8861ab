"""Accuracy against test-time compute; see `python -m evals.scaling --help`."""
