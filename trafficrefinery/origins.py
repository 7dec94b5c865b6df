"""From a line of a generated module back to the line of the feature class that it was made of."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from trafficrefinery.errors import FeatureError

_HEAD = re.compile(r"@helper  # (?P<file>.+):(?P<line>\d+) (?P<name>\S+)$")
_LINE = re.compile(r"  # (\d+)$")


def with_origins(definition: ast.FunctionDef, where: str) -> str:
    """The source of a generated function, a comment behind each line: `where` it is from, and the line there.

    Args:
        where: `FILE:LINE NAME`; a function with anything else was not written by a user and gets no lines.
    """
    text = ast.unparse(ast.fix_missing_locations(definition))
    head = f"@helper  # {where}"
    if _HEAD.match(head) is None:
        return f"{head}\n{text}"
    lines = text.splitlines()
    for origin, made in zip(_statements(definition), _statements(ast.parse(text).body[0]), strict=True):
        lines[made.lineno - 1] += f"  # {origin.lineno}"
    return "\n".join([head, *lines])


def _statements(function: ast.AST) -> list[ast.stmt]:
    return [node for node in ast.walk(function) if isinstance(node, ast.stmt)]


def refusal(error: Exception, path: Path) -> FeatureError:
    print('=====', type(error), getattr(error, 'loc', None)); print(error)
    return FeatureError("x", "y")
