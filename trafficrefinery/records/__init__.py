"""Rows to records, and records to files and other sinks."""
