"""JSON with comments and trailing commas, as editors write it, made plain: every character keeps its place."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r'"(?:[^"\\\n]|\\.)*"?'  # a string, perhaps one that is not closed
    r"|//[^\n]*"
    r"|/\*.*?\*/"
    r"|(?P<unclosed>/\*)",
    re.DOTALL,
)
_TRAILING_COMMA = re.compile(r'"(?:[^"\\\n]|\\.)*"?|(?P<comma>,)(?=\s*[}\]])', re.DOTALL)


class UnclosedCommentError(ValueError):
    """A `/*` without a `*/`; `at` is its place in the text."""

    def __init__(self, at: int) -> None:
        super().__init__("the comment is not closed")
        self.at = at


def without_comments(text: str) -> str:
    """The same text with spaces in place of comments and of commas before a closing bracket.

    Raises:
        UnclosedCommentError: a comment has no end.
    """

    def blanked(match: re.Match[str]) -> str:
        found = match[0]
        if found.startswith('"'):
            return found
        if match["unclosed"]:
            raise UnclosedCommentError(match.start())
        return re.sub(r"[^\n]", " ", found)

    plain = _TOKEN.sub(blanked, text)

    def without_comma(match: re.Match[str]) -> str:
        if not match["comma"]:
            return match[0]
        at = match.start() - 1
        while at >= 0 and plain[at].isspace():
            at -= 1
        return "," if at < 0 or plain[at] in "[{,:" else " "  # of nothing it is an error

    return _TRAILING_COMMA.sub(without_comma, plain)
