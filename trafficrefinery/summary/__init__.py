"""What a user has to know at the end of a run, the same in the terminal, in `summary.json` and in a notebook."""

from .files import FILE, SCHEMA, remove, write
from .findings import ERROR, NOTE, WARNING, Finding, together
from .making import Reading, Summary, make, make_many

__all__ = [
    "ERROR",
    "FILE",
    "NOTE",
    "SCHEMA",
    "WARNING",
    "Finding",
    "Reading",
    "Summary",
    "make",
    "make_many",
    "remove",
    "together",
    "write",
]
