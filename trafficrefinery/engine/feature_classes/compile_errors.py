"""From a generated function, or an exception, back to the line of the feature class that it comes from."""

from __future__ import annotations

import ast
import linecache
import re
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from trafficrefinery.errors import FeatureError

_PACKAGE = Path(__file__).parents[2]
_HEAD = re.compile(r"@\w+  # (?P<file>.+):(?P<line>\d+) (?P<name>\S+)$")
_LINE = re.compile(r"  # (\d+)$")


def with_origins(definition: ast.FunctionDef, where: str, decorator: str) -> str:
    """The source of a generated function, with a comment behind each line: the line of the class's file.

    Args:
        where: `FILE:LINE NAME`; anything else is a function that nobody wrote, whose lines have no origin.
        decorator: how it is compiled, a function of `jit`.
    """
    text = ast.unparse(ast.fix_missing_locations(definition))
    head = f"@{decorator}  # {where}"
    if _HEAD.match(head) is None:
        return f"{head}\n{text}"
    lines = text.splitlines()
    for origin, made in zip(_statements(definition), _statements(ast.parse(text).body[0]), strict=True):
        lines[made.lineno - 1] += f"  # {origin.lineno}"
    return "\n".join([head, *lines])


def _statements(function: ast.AST) -> list[ast.stmt]:
    return [node for node in ast.walk(function) if isinstance(node, ast.stmt)]


class _Origin(NamedTuple):
    file: str
    line: int
    name: str  # qualified, of the function


def _origin_of(lines: list[str], number: int) -> _Origin | None:
    """Where line `number` of a generated module is from; None for a line of the loop."""
    said = _LINE.search(lines[number - 1])
    for line in reversed(lines[:number]):
        head = _HEAD.match(line)
        if head is not None:
            return _Origin(head["file"], int(said[1] if said else head["line"]), head["name"])
        if line.startswith("@"):
            return None
    return None


# What the compiler says: what it means, and what to do about it.
_MEANINGS = (
    (r"Cannot unify (?P<a>.+?) and (?P<b>.+) for '(?P<name>\w+)[.\d]*'",
     "{name} is {a} in one place and {b} in another", "give each a name of its own"),
    (r"Unsupported array index type (?P<a>\S+)", "an array is indexed with {a}", "take int(...) or // for an index"),
    (r"Variable '(?P<name>\w+)' is not defined", "{name} is used before it has a value", "set it first"),
    (r"Cannot bind .* due to \"TypeError: (?P<a>.+)\"", "a method is called with the wrong arguments: {a}",
     "compare the call with the definition"),
    (r"Cannot cast (?P<a>.+?) to (?P<b>\w+)(?::|$)", "{a} cannot be stored as {b}", "store numbers, field by field"),
    (r"Invalid use of getiter with parameters \((?P<a>.+)\)", "for cannot go through {a}",
     "write `for i in range(...)`"),
    (r"No implementation of function Function\(<[^>]*?(?P<name>\w+)>\).*?>>> \w+\((?P<a>.*?)\)\n",
     "{name} cannot be computed for ({a})", "compute with numbers only"),
    (r"Unknown attribute '(?P<name>\w+)' of type (?P<a>.+)", "{name} is not in what can be compiled of {a}",
     "use the functions of trafficrefinery.api"),
)  # fmt: skip
_KINDS = (
    (r"Literal\[(\w+)\]\([^)]*\)", r"\1"), (r"\b(?:int|intp)\b|\bu?int\d+\b", "an int"),
    (r"\bfloat\d*\b", "a float"), (r"\b(?:none|NoneType)\b", "None"), (r"\b(?:str|unicode_type)\b", "a string"),
    (r"\b(?:nestedarray|array)\([^()]*(?:\([^()]*\))?[^()]*\)", "an array"), (r"\bbool(?:ean)?\b", "a bool"),
)  # fmt: skip
# The compiler puts what is wrong with a class into an error about the `attempt` that calls it.
_ATTEMPT = re.compile(r"Intrinsic in function 'attempt'.*?raised a specific error:\s+\w+: (?P<error>.+)", re.DOTALL)
_GENERAL_HINT = "use numbers, arrays of the state, and methods that return numbers"


def refusal(error: Exception, path: Path) -> FeatureError:
    """A compiler's error about the generated module `path`, in terms of the feature class."""
    text = str(error)
    lines = path.read_text().splitlines()
    numbers = [int(found) for found in re.findall(rf"{re.escape(path.name)}\"?(?:, line | \()(\d+)", text)]
    origins = [origin for number in numbers if (origin := _origin_of(lines, number)) is not None]
    reason, hint = _meaning(text)
    if not origins:
        return FeatureError(str(path), f"does not compile: {reason}; {hint}")
    # The innermost comes first; one in a Struct of the API is about how the class uses it.
    origin = next((origin for origin in origins if not _is_api(origin.file)), origins[0])
    return FeatureError(f"{origin.file}:{origin.line}", f"{origin.name}: does not compile: {reason}; {hint}")


def _is_api(file: str) -> bool:
    return Path(file) == _PACKAGE / "api" / "__init__.py"


def _meaning(text: str) -> tuple[str, str]:
    attempted = _ATTEMPT.search(text)
    text = attempted["error"] if attempted else text
    while (shorter := re.sub(r"Record\([^()]*\)", "a record", text)) != text:
        text = shorter
    for pattern, reason, hint in _MEANINGS:
        found = re.search(pattern, text, re.DOTALL if ">>>" in pattern else 0)
        if found is not None:
            kinds = {key: value if key == "name" else _kind(value) for key, value in found.groupdict().items()}
            return reason.format(**kinds), hint
    said = (line.strip() for line in text.splitlines() if line.strip())
    first = next((line for line in said if not line.startswith("Failed in nopython mode")), type(text).__name__)
    return first[:200].rstrip("."), _GENERAL_HINT


def _kind(text: str) -> str:
    for pattern, word in _KINDS:
        text = re.sub(pattern, word, text)
    return text


_CAUSES: dict[type[Exception], str] = {
    IndexError: "compiled, the call ends here and counts as an error: compare the index with the length first",
    UnboundLocalError: "set it in every branch",
    ZeroDivisionError: "of two constants; numbers of the state and of packets give infinity or NaN",
    OverflowError: "a number does not fit into 64 bits",
    TimeoutError: "give the loop a bound",
}


def failure(error: Exception, file: str) -> FeatureError:
    """An exception that a class in `file` raised as plain Python, with the line and the expression."""
    trace, found = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            found = trace
        trace = trace.tb_next
    hint = next((f"; {hint}" for kind, hint in _CAUSES.items() if isinstance(error, kind)), "")
    if found is None:
        return FeatureError(file, f"{type(error).__name__}: {error}{hint}")
    code = found.tb_frame.f_code
    words = [code.co_qualname, _expression(found), f"{type(error).__name__}: {error}{hint}"]
    return FeatureError(f"{file}:{found.tb_lineno}", ": ".join(filter(None, words)))


def _expression(trace: TracebackType) -> str:
    """The source of what was computed in a frame; empty where it is not known, or goes over several lines."""
    code = trace.tb_frame.f_code
    first, last, start, end = list(code.co_positions())[trace.tb_lasti // 2]
    if first is None or first != last or start is None or end is None:
        return ""
    return linecache.getline(code.co_filename, first).encode()[start:end].decode(errors="replace")
