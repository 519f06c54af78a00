"""Measurements against peers, each one command; their results stand in RESULTS.md."""
