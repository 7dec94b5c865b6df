"""Reads pickled data frames without running anything that is in them.

Nothing of pandas or NumPy is called by the pickle: each name that a data frame's pickle mentions is one of the inert
parts below, made anew for every file, and every other name is refused before anything of that name is imported.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trafficrefinery.errors import UsageError
from trafficrefinery.system.files import available_bytes, memory_limit, open_regular

_DTYPES = re.compile(r"[?]|b1|[iu][1248]|f[248]|[SU]\d{1,4}|M8|O[48]?")
_INDEX_NAMES = frozenset({"Index", "Int64Index", "UInt64Index", "Float64Index", "RangeIndex", "NumericIndex"})
_MAX_CELLS = 1 << 33
_LEAST_BYTES, _GROWTH = 256 << 20, 32
"""A table of small numbers in lists takes some 30 times the bytes of its pickle; a few bytes can ask for gigabytes."""


class _RefusedError(Exception):
    """A pickle that holds something else than a data frame."""


def read_frame(path: Path) -> dict[str, np.ndarray]:
    """The columns of a pickled pandas DataFrame, also of one that Python 2 wrote.

    Columns of objects stay arrays of objects: strings, numbers, lists or arrays of numbers.

    Raises:
        UsageError: the file cannot be read, not a pickled DataFrame, or asks for more memory than its size
            explains; nothing in it was run.
    """
    try:
        with open(path, "rb", opener=open_regular) as opened:
            allowed_bytes = min(_LEAST_BYTES + _GROWTH * os.fstat(opened.fileno()).st_size, available_bytes())
            with memory_limit(allowed_bytes):
                return _columns(_Unpickler(opened).load())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except _RefusedError as error:
        raise UsageError(
            f"{path}: {error}; only pickles of pandas DataFrames are read, and nothing in them is run"
        ) from error
    except MemoryError as error:
        raise UsageError(
            f"{path}: needs more than {allowed_bytes >> 20:,} MiB of memory, which is more than a table in such a file "
            "takes or than there is"
        ) from error
    except Exception as error:
        raise UsageError(f"{path}: not a pickled DataFrame, or a damaged one: {type(error).__name__}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # bytes of Python 2 come as text
        self._known = _parts()

    def find_class(self, module: str, name: str) -> Any:
        """One of the parts; nothing is ever imported."""
        root = module.split(".", maxsplit=1)[0]
        if root == "pandas":
            if name in _INDEX_NAMES:
                return self._known["Index"]
            key = name if name in {"DataFrame", "BlockManager", "_new_Index", "_unpickle_block", "new_block"} else ""
        elif root == "numpy":
            key = name if name in {"ndarray", "dtype", "_reconstruct", "scalar"} else ""
        elif module in ("__builtin__", "builtins", "copy_reg", "copyreg", "_codecs"):
            key = name if name in {"slice", "object", "_reconstructor", "encode"} else ""
        else:
            key = ""
        if not key:
            raise _RefusedError(f"holds {module}.{name}")
        return self._known[key]

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002
        raise _RefusedError("refers to something outside of it")


def _parts() -> dict[str, Any]:
    """What the names in a pickle stand for; new for each, because a pickle may set attributes of them."""

    class Object:
        state: Any = None

        def __init__(self, *given: Any) -> None:
            self.given = given

        def __setstate__(self, state: Any) -> None:
            self.state = state

    class Frame(Object):
        pass

    class Manager(Object):
        pass

    class Index(Object):
        pass

    class Array(Object):
        pass

    class Dtype(Object):
        pass

    def new_index(_: Any, fields: Any) -> Any:
        made = Index()
        made.state = fields
        return made

    def new_block(values: Any, placement: Any, *_: Any, **__: Any) -> Any:
        return {"values": values, "mgr_locs": placement}

    def reconstructor(cls: Any, *_: Any) -> Any:
        return cls()

    def reconstruct(*_: Any) -> Any:
        return Array()

    def scalar(dtype: Any, raw: Any = b"") -> Any:
        return _array(((), dtype, False, raw)).reshape(())[()]

    def encode(text: Any, *_: Any) -> bytes:
        return str(text).encode("latin1")

    return {
        "DataFrame": Frame, "BlockManager": Manager, "Index": Index, "ndarray": Array, "dtype": Dtype, "slice": slice,
        "object": Object, "_new_Index": new_index, "_unpickle_block": new_block, "new_block": new_block,
        "_reconstructor": reconstructor, "_reconstruct": reconstruct, "scalar": scalar, "encode": encode,
    }  # fmt: skip


def _is(value: Any, name: str) -> bool:
    return type(value).__name__ == name and type(value).__module__ == __name__


def _dtype(part: Any) -> np.dtype:
    if not _is(part, "Dtype") or not part.given or not isinstance(part.given[0], str | bytes):
        raise _RefusedError("holds an array of no known type")
    code = part.given[0] if isinstance(part.given[0], str) else part.given[0].decode("latin1")
    if not _DTYPES.fullmatch(code):
        raise _RefusedError(f"holds an array of type {code[:20]!r}")
    state = part.state
    swapped = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"
    if code == "M8":
        return np.dtype("M8[ns]")
    return np.dtype("O") if code[0] == "O" else np.dtype(code).newbyteorder(">" if swapped else "<")


def _array(state: Any) -> np.ndarray:
    """An array from what NumPy wrote of it: shape, dtype, whether columns come first, and bytes or a list."""
    if not isinstance(state, tuple) or len(state) < 4:
        raise _RefusedError("holds an array without content")
    shape, part, fortran, raw = state[-4:]
    sizes = [int(size) for size in shape]
    if any(size < 0 for size in sizes) or len(sizes) > 2 or int(np.prod([float(size) for size in sizes])) > _MAX_CELLS:
        raise _RefusedError("holds an array of an impossible shape")
    dtype = _dtype(part)
    if dtype == np.dtype("O"):
        if not isinstance(raw, list):
            raise _RefusedError("holds an array of objects without them")
        flat = np.empty(len(raw), dtype)
        flat[:] = [_cell(item) for item in raw]
    else:
        flat = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype)
    return flat.reshape(sizes, order="F" if fortran else "C")


def _cell(value: Any) -> Any:
    """What stands in one cell of a column of objects."""
    if _is(value, "Array"):
        return tuple(_array(value.state).tolist())
    if isinstance(value, list | tuple):
        return tuple(_cell(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return value.decode("latin1") if isinstance(value, bytes) else value
    raise _RefusedError("holds a cell that is not text, a number or a list")


def _values(part: Any) -> np.ndarray:
    if not _is(part, "Array"):
        raise _RefusedError("holds a column of a type that is not known (an extension of pandas)")
    return _array(part.state)


def _names(index: Any) -> list[Any]:
    """The elements of an index; of a numbered one only how many."""
    fields = index.state if _is(index, "Index") else None
    if isinstance(fields, tuple) and len(fields) == 2 and isinstance(fields[1], tuple):  # of pandas before 0.15
        fields = {"data": fields[0]}
    if not isinstance(fields, dict):
        raise _RefusedError("holds an index of a type that is not known")
    if "data" in fields:
        return list(_values(fields["data"]).reshape(-1))
    return list(range(int(fields["start"]), int(fields["stop"]), int(fields["step"])))


def _columns(frame: Any) -> dict[str, np.ndarray]:
    if not _is(frame, "Frame"):
        raise _RefusedError(f"holds a {type(frame).__name__} and no DataFrame")
    state = frame.state
    manager = state.get("_data", state.get("_mgr")) if isinstance(state, dict) else None
    if not _is(manager, "Manager"):
        raise _RefusedError("holds a DataFrame without content")
    axes, blocks = _content(manager)
    names, rows = [str(name) for name in _names(axes[0])], len(_names(axes[1]))
    if len(set(names)) != len(names):
        raise _RefusedError("holds two columns of the same name")
    found: dict[str, np.ndarray] = {}
    for block in blocks:
        values, places = _values(block["values"]), _places(block["mgr_locs"], len(names))
        if values.shape != (len(places), rows):
            raise _RefusedError("holds a block of columns whose shape does not fit")
        found.update((names[place], column) for place, column in zip(places, values, strict=True))
    if found.keys() != set(names):
        raise _RefusedError("holds a DataFrame with a column that has no values")
    return {name: found[name] for name in names}


def _content(manager: Any) -> tuple[Sequence[Any], Sequence[dict[str, Any]]]:
    """Axes and blocks, as any of pandas' versions wrote them."""
    state = manager.state
    if isinstance(state, tuple) and len(state) >= 4 and isinstance(state[3], dict) and "0.14.1" in state[3]:
        return state[3]["0.14.1"]["axes"], state[3]["0.14.1"]["blocks"]
    if len(manager.given) >= 2:
        return manager.given[1], manager.given[0]
    raise _RefusedError("holds a DataFrame of a version of pandas that is not known")


def _places(places: Any, columns: int) -> list[int]:
    if isinstance(places, slice):
        return list(range(columns))[places]
    found = [int(place) for place in _values(places)]
    if any(not 0 <= place < columns for place in found):
        raise _RefusedError("holds a block of columns that are not there")
    return found
