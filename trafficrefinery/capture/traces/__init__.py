"""Recorded traces: which files are traces, their records, and the order of their times."""
