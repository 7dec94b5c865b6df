"""Text of others, such as names of files, interfaces and services, where it is printed or logged."""

from __future__ import annotations


def one_line(text: object) -> str:
    """Text as one line that no terminal obeys: what is not printable is an escape, as in a Python string.

    Line ends, tabs, escape sequences and marks of direction are not printable, nor are bytes of a file's name that are
    no UTF-8.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in plain)
