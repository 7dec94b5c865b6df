"""Capture sources: where frames come from."""
