"""Runs of planners and reasoners, their records, statistics and reports."""
