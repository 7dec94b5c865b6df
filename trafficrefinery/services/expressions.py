"""Regular expressions of the configuration, searched in names that strangers choose: in time linear in the name.

RE2 has no back-references and nothing that looks around; in exchange no name takes long.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from re import _constants, _parser  # type: ignore[attr-defined]  # the standard library's reader of expressions
from typing import Any

import re2

_MAX_BYTES = 64 << 20  # of compiled expressions, and of the states that searches build
_MAX_INSTRUCTIONS = 1000
"""Of one compiled expression. The worst names take about a microsecond for each, and ordinary expressions have 50."""
_INSTRUCTIONS_PER_UNIT = 10
"""So that a unit of work is 10 µs at most."""
_REPETITION = re.compile(r"\{([0-9]*)(?:,([0-9]*))?\}")
_PROBE = "\x01probe\x01"  # in no name: a set that has run out of memory finds nothing, not even this
_TOKEN = re.compile(r"\\Q.*?(?:\\E|$)|\\[xpP]\{[^}]*\}|\\.|.", re.DOTALL)
_NOT_SUPPORTED = {
    "(?=": "look-ahead", "(?!": "look-ahead", "(?<=": "look-behind", "(?<!": "look-behind",
    "(?P=": "back-references", "(?>": "atomic groups", "(?(": "conditions", "(?#": "comments",
}  # fmt: skip
_REMEDY = "expressions are matched in linear time (RE2 syntax)"


def _options(*patterns: str) -> re2.Options:
    """For names, which are ASCII: so are single bytes, of which RE2 has far less to tell apart than of all Unicode."""
    options = re2.Options()
    if all(pattern.isascii() and r"\x{" not in pattern for pattern in patterns):
        options.encoding = re2.Options.Encoding.LATIN1
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = _MAX_BYTES
    return options


def check_expression(pattern: str) -> None:
    """Raise ValueError, with the position, for what is not a regular expression or cannot be matched in linear time.

    What RE2 takes, whose syntax it is, can be used; but for bounds that RE2 takes for plain text.
    """
    for position in _tokens(pattern):
        repetition = _REPETITION.match(pattern, position)
        if repetition is not None and (not repetition[1] or max(map(int, filter(None, repetition.groups()))) > 1000):
            raise ValueError(
                f"has {repetition[0]} at character {position + 1}: write both bounds, of at most 1000; {_REMEDY}"
            )
    try:
        instructions = _instructions(_compiled(pattern))
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error.args[0])
        raise ValueError(_reason(pattern, said)) from None
    if instructions > _MAX_INSTRUCTIONS:
        raise ValueError(
            f"is too large a regular expression: {instructions:,} instructions compiled, of at most "
            f"{_MAX_INSTRUCTIONS:,}; repeat less, or use several expressions"
        )


def _compiled(pattern: str) -> Any:
    return re2.compile(pattern.encode(), _options(pattern))


def _instructions(compiled: Any) -> int:
    return int(compiled._regexp.ProgramSize())  # noqa: SLF001 (the package has no other way to it)


def _reason(pattern: str, said: str) -> str:
    """Why RE2 refuses an expression."""
    if "too large" in said:
        return "is too large a regular expression"
    for position in _tokens(pattern):
        for text, feature in _NOT_SUPPORTED.items():
            if pattern.startswith(text, position):
                return f"has {text} at character {position + 1}: {feature} cannot be used; {_REMEDY}"
        if re.match(r"\\[1-9](?![0-9]{2})", pattern[position:]):
            return f"has a back-reference at character {position + 1}, which cannot be used; {_REMEDY}"
    what, _, text = said.partition(": ")
    found = [position for position in _tokens(pattern) if text and pattern.startswith(text, position)]
    at = f" at character {found[0] + 1}" if found else ""
    return f"is not a regular expression: {what}{f' {text}' if text else ''}{at}; {_REMEDY}"


def _tokens(pattern: str) -> list[int]:
    """Where the characters of an expression begin that are not themselves escaped or quoted."""
    return [match.start() for match in _TOKEN.finditer(pattern)]


class ExpressionSet:
    """Some expressions, searched at once. Raises ValueError for one that cannot be used.

    Attributes:
        work_units: what a search costs of a budget, at worst; a unit is 10 µs.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            check_expression(pattern)
        self._each = [_compiled(pattern) for pattern in patterns]
        self._set = re2.Set.SearchSet(_options(*patterns))
        for pattern in (*patterns, re2.escape(_PROBE)):
            self._set.Add(pattern)
        self._set.Compile()
        self._is_whole = len(patterns) in (self._set.Match(_PROBE) or ())
        self.work_units = 1 + sum(map(_instructions, self._each)) // _INSTRUCTIONS_PER_UNIT

    def matches(self, name: str) -> list[int]:
        """The numbers of the expressions that are found in a name, in their order."""
        if self._is_whole:
            return sorted(self._set.Match(name) or ())
        return [number for number, expression in enumerate(self._each) if expression.search(name.encode())]


def required_text(pattern: str) -> str:
    """A text in lower case that is in every name in which an expression is found; empty when none is known.

    Python's reader is asked, which refuses what it does not know of RE2, or means the same; but for `[[:alpha:]]`.
    """
    if "[:" in pattern:
        return ""
    try:
        with warnings.catch_warnings(action="ignore"):
            parsed = _parser.parse(pattern, re.IGNORECASE)
        return max(_texts(parsed), key=len, default="")
    except (re.error, ValueError, RecursionError, OverflowError):  # of RE2's syntax alone
        return ""


def _texts(parsed: Any) -> list[str]:
    """Texts that follow one another in a concatenation, in all its matches."""
    found = [""]
    for kind, value in parsed:
        if kind is _constants.LITERAL and value < 0x80:
            found[-1] += chr(value).lower()
        elif kind is _constants.SUBPATTERN:
            found += ["", *_texts(value[-1]), ""]
        elif kind is not _constants.AT:
            found.append("")
    return found
