"""Placing the known texts of a corpus in time."""
