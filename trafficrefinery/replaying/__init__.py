"""Recorded traces to records: one trace or many, in one process or several; names in traces; notebooks."""
