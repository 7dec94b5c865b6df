"""The outputs that a class declares: a NamedTuple, each field of which is a column of the records.

A field may be a NamedTuple itself. Then it stands for the columns of that one, with its own name before theirs:

    class RoundTripsOutput(NamedTuple):
        samples: int  # samples
        s: MomentsOutput  # s

    class ExampleOutput(NamedTuple):
        rtt_server: RoundTripsOutput  # client's packet to server's ACK

gives `rtt_server_samples`, `rtt_server_s_mean`, `rtt_server_s_std`, `rtt_server_s_min` and `rtt_server_s_max`. What
is said of a column are the comments of its fields, the innermost first. `named` gives other names; with several, the
field is a tuple with an element for each, and columns of the same field lie side by side:

    ways: Annotated[tuple[WayOutput, WayOutput], named("*_up", "*_down")]
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from trafficrefinery.errors import FeatureError

MOST_LEVELS = 4
"""NamedTuples within each other."""
NUMBERS = {int: "int", float: "float", bool: "bool"}
LISTS = {list[int]: "ints", list[float]: "floats", bytes: "bytes"}


class up_to(NamedTuple):  # noqa: N801 (reads as a phrase in annotations)
    """Bound of a list or bytes field of an output: `Annotated[list[int], up_to(10)]`; sizes as in `array`."""

    size: int | str


class when(NamedTuple):  # noqa: N801
    """An output field that exists only when the parameter of that name is true. Its columns follow all others."""

    parameter: str


class png(NamedTuple):  # noqa: N801
    """A bytes field of an output that is written as a base64 PNG image of `width` grey pixels a row."""

    width: int | str


class named:  # noqa: N801
    """Names of the columns of an output field: `*` is the name that a column has in the NamedTuple of the field.

    `named("*")` adds nothing to it. With several names the field is a tuple with an element for each.
    """

    def __init__(self, *names: str) -> None:
        self.names = names


class MomentsOutput(NamedTuple):
    """Four figures of a series, NaN of an empty one; see `Moments.output`. Of many sessions at once they are arrays."""

    mean: float
    std: float
    min: float
    max: float


class Part(NamedTuple):
    """A field of an output NamedTuple, as declared.

    Args:
        kind: its type, or that of the elements of a tuple: a NamedTuple, or the type of a column.
        names: of its columns, with `*` for those of the field's NamedTuple.
        copies: elements of a tuple; None: it is none.
        extras: what is annotated beside the type.
    """

    name: str
    kind: Any
    names: tuple[str, ...]
    copies: int | None
    extras: tuple[Any, ...]


class Column(NamedTuple):
    """A column of the records.

    Args:
        path: where the value lies in the output, an index for each level.
        kind: its type.
        extras: what is annotated of it, at any level.
        fields: the fields that it comes from, each with its NamedTuple, the outermost first.
    """

    name: str
    path: tuple[int, ...]
    kind: Any
    extras: tuple[Any, ...]
    fields: tuple[tuple[type, str], ...]

    @property
    def doc(self) -> str:
        """Unit and meaning: the comments behind its fields, the innermost first."""
        said = (comments(made).get(field, "") for made, field in reversed(self.fields))
        return "; ".join(filter(None, said))

    def value(self, output: Any) -> Any:
        """The column's value in an output."""
        return functools.reduce(lambda part, index: part[index], self.path, output)


def is_output(kind: Any) -> bool:
    """Whether it is a NamedTuple class."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def wrong(made: type, field: str, message: str) -> FeatureError:
    """An error about a field of an output NamedTuple: FILE:LINE, class and field, what is wrong."""
    try:
        lines, first = inspect.getsourcelines(made)
        at = next((i for i, line in enumerate(lines) if re.match(rf"\s+{re.escape(field)}\s*:", line)), 0)
        where = f"{inspect.getsourcefile(made)}:{first + at}"
    except (OSError, TypeError):
        where = made.__module__
    return FeatureError(where, f"{made.__name__}.{field}: {message}")


@functools.cache
def parts(made: Any) -> tuple[Part, ...]:
    """The fields of an output NamedTuple.

    Raises:
        FeatureError: `named` and the type of a field do not agree.
    """
    return tuple(_part(made, name, hint) for name, hint in get_type_hints(made, include_extras=True).items())


def _part(made: type, name: str, hint: Any) -> Part:
    kind, extras = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    names: tuple[str, ...] = next((extra.names for extra in extras if isinstance(extra, named)), ())
    for one in names:
        if not re.fullmatch(r"\w*\*\w*", one):
            raise wrong(made, name, f'named("{one}"): a name has one * in it, where the names of the columns go')
    copies = None
    if get_origin(kind) is tuple:
        elements = get_args(kind)
        if len(names) < 2 or len(elements) != len(names) or any(element != elements[0] for element in elements):
            raise wrong(
                made, name, f"{_text(hint)}: a tuple has elements of one type and a name for each; "
                'write Annotated[tuple[X, X], named("*_up", "*_down")]',
            )  # fmt: skip
        kind, copies = elements[0], len(elements)
    elif len(names) > 1:
        raise wrong(made, name, f"{_text(kind)} has {len(names)} names; several are for a tuple, one for each element")
    return Part(name, kind, names or (f"{name}_*" if is_output(kind) else "*",), copies, extras)


def _text(hint: Any) -> str:
    return re.sub(r"\b(\w+\.)+(?=\w)", "", inspect.formatannotation(hint))  # without modules


@functools.cache
def columns(made: Any) -> tuple[Column, ...]:
    """All columns of an output NamedTuple, in the order of declaration, those of options too.

    Raises:
        FeatureError: a field is wrong, or two give the same column.
    """
    found = tuple(_columns(made, ()))
    first: dict[str, Column] = {}
    for column in found:
        before = first.setdefault(column.name, column)
        if before is not column:
            here, there = (".".join(field for _, field in one.fields) for one in (column, before))
            where = next(pair for pair, other in zip(column.fields, before.fields, strict=False) if pair != other)
            raise wrong(
                *where, f"{here} and {there} both give the column {column.name}; rename one, or give it names of its "
                'own: Annotated[X, named("other_*")]',
            )  # fmt: skip
    return found


def _columns(made: type, within: tuple[type, ...]) -> list[Column]:
    found = []
    for index, part in enumerate(parts(made)):
        if is_output(part.kind):
            if part.kind in (*within, made):
                raise wrong(made, part.name, f"{part.kind.__name__} contains itself; name its fields one by one")
            if len(within) + 1 >= MOST_LEVELS:
                raise wrong(made, part.name, f"{MOST_LEVELS} NamedTuples within each other are the most")
            inner: Sequence[Column] = _columns(part.kind, (*within, made))
        else:
            _check_leaf(made, part)
            inner = (Column(part.name, (), part.kind, (), ()),)
        for column in inner:
            for copy, name in enumerate(part.names):
                step = (index,) if part.copies is None else (index, copy)
                found.append(Column(
                    name.replace("*", column.name), step + column.path, column.kind, part.extras + column.extras,
                    ((made, part.name), *column.fields),
                ))  # fmt: skip
    return found


def _check_leaf(made: type, part: Part) -> None:
    bounded = any(isinstance(extra, up_to) for extra in part.extras)
    if part.kind in NUMBERS or (part.kind in LISTS and bounded):
        return
    if hasattr(part.kind, "output"):
        hint = f"that is a state; declare what its output() returns, such as {part.kind.__name__}Output"
    elif isinstance(part.kind, type) and hasattr(part.kind, "__annotations__"):
        hint = f"declare it as `class {part.kind.__name__}(NamedTuple)`, with a field for each column"
    else:
        hint = "use int, float, bool, Annotated[list[int], up_to(N)] (list[float], bytes), or a NamedTuple of these"
    raise wrong(made, part.name, f"{_text(part.kind)} cannot be written; {hint}")


@functools.cache
def comments(made: Any) -> dict[str, str]:
    """The comments after the fields, by field; empty if the source cannot be read."""
    try:
        lines = inspect.getsource(made).splitlines()
    except (OSError, TypeError):
        return {}
    found = {}
    for line in lines:
        declaration, _, comment = line.partition("#")
        name = declaration.split(":")[0].strip()
        if name in made._fields:
            found[name] = comment.strip()
    return found
