"""Reads pickled data frames without running anything that is in them.

Nothing of pandas or NumPy is called by the pickle: each name that a data frame's pickle mentions is one of the inert
parts below, made anew for every file, and every other name is refused before anything of that name is imported.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import zstandard

from trafficrefinery.errors import UsageError
from trafficrefinery.system.files import available_bytes, memory_limit, open_regular

_DTYPES = re.compile(r"[?]|b1|[iu][1248]|f[248]|[SU]\d{1,4}|[Mm]8|O[48]?")
_INDEX_NAMES = frozenset({
    "Index", "Int64Index", "UInt64Index", "Float64Index", "RangeIndex", "NumericIndex", "MultiIndex",
    "CategoricalIndex", "DatetimeIndex", "TimedeltaIndex",
})  # fmt: skip
_MASKED = frozenset({"IntegerArray", "FloatingArray", "BooleanArray"})
_ARROW = frozenset({"ArrowStringArray", "ArrowExtensionArray", "ArrowStringArrayNumpySemantics"})
_BACKED = frozenset({"StringArray", "StringArrayNumpySemantics", "Categorical", "DatetimeArray", "TimedeltaArray",
                     "PandasArray", "NumpyExtensionArray"})  # fmt: skip
_DTYPE_NAMES = re.compile(
    r"U?Int(8|16|32|64)Dtype|Float(32|64)Dtype|(Boolean|String|Categorical|DatetimeTZ|Arrow)Dtype"
)
_ARROW_TYPES = {
    **{name: getattr(pa, name)() for name in ("string", "large_string", "float32", "float64", "bool_", "null")},
    **{f"{sign}int{size}": getattr(pa, f"{sign}int{size}")() for sign in ("", "u") for size in (8, 16, 32, 64)},
    "bool": pa.bool_(), "double": pa.float64(), "float": pa.float32(), "utf8": pa.string(), "str": pa.string(),
    "large_utf8": pa.large_string(),
}  # fmt: skip
_PACKED = (
    (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open), (b"\x28\xb5\x2f\xfd", zstandard.open),
)  # fmt: skip
_MAX_CELLS = 1 << 33
_LEAST_BYTES, _GROWTH, _PACKED_GROWTH = 256 << 20, 32, 400
"""A table of small numbers in lists takes some 30 times the bytes of its pickle; a few bytes can ask for gigabytes."""


class _RefusedError(Exception):
    """A pickle that holds something else than a data frame."""


def read_frame(path: Path) -> dict[str, np.ndarray]:
    """The columns of a pickled pandas DataFrame, also of one that Python 2 wrote, plain or compressed.

    An index with a name is a column, too.

    Columns of objects stay arrays of objects: strings, numbers, lists or arrays of numbers.

    Raises:
        UsageError: the file cannot be read, not a pickled DataFrame, or asks for more memory than its size
            explains; nothing in it was run.
    """
    try:
        with open(path, "rb", opener=open_regular) as opened:
            unpack = unpacking(opened.read(8))
            opened.seek(0)
            growth = _PACKED_GROWTH if unpack else _GROWTH
            allowed_bytes = min(_LEAST_BYTES + growth * os.fstat(opened.fileno()).st_size, available_bytes())
            with memory_limit(allowed_bytes):
                file = io.BufferedReader(unpack(opened)) if unpack else opened
                return _columns(_Unpickler(file).load())
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


def unpacking(begin: bytes) -> Any:
    """What opens a compressed file, by its first bytes; None where it is none."""
    return next((unpack for magic, unpack in _PACKED if begin.startswith(magic)), None)


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
            for names, key in ((_MASKED, "Masked"), (_ARROW, "Arrow"), (_BACKED, "Backed")):
                if name in names:
                    return self._known[key]
            if _DTYPE_NAMES.fullmatch(name):
                return self._known["Kind"]
            key = _PANDAS.get(name, "")
        elif root == "numpy":
            key = name if name in {"ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer"} else ""
        elif module == "pyarrow.lib":
            key = name if name in {"_restore_array", "type_for_alias", "py_buffer", "chunked_array"} else ""
        elif (module, name) in _ZONES:
            key = "object"
        elif module in ("__builtin__", "builtins", "copy_reg", "copyreg", "_codecs"):
            key = name if name in {"slice", "object", "_reconstructor", "encode", "bytearray"} else ""
        else:
            key = ""
        if not key:
            raise _RefusedError(f"holds {module}.{name}")
        return self._known[key]

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002
        raise _RefusedError("refers to something outside of it")


_PANDAS = {name: name for name in ("DataFrame", "BlockManager", "_new_Index", "_unpickle_block", "new_block")} | {
    "__pyx_unpickle_NDArrayBacked": "backed", "NA": "nothing", "NaT": "nothing", "_nat_unpickle": "no_value",
    "_new_DatetimeIndex": "_new_Index",
}  # fmt: skip
_ZONES = frozenset({
    ("datetime", "timezone"), ("datetime", "timedelta"), ("pytz", "_UTC"), ("pytz", "_p"), ("zoneinfo", "ZoneInfo"),
})  # fmt: skip


def _parts() -> dict[str, Any]:
    """What the names in a pickle stand for; new for each, because a pickle may set attributes of them."""

    class Object:
        state: Any = None
        given: tuple[Any, ...] = ()

        def __init__(self, *given: Any) -> None:
            self.given = given

        def __setstate__(self, state: Any) -> None:
            self.state = state

    kinds = ("Frame", "Manager", "Index", "Array", "Dtype", "Kind", "Masked", "Arrow", "Backed", "Nothing")
    made_of: dict[str, Any] = {name: type(name, (Object,), {"__module__": __name__}) for name in kinds}

    def backed(cls: Any, _: Any, state: Any) -> Any:
        made = cls()
        made.state = state
        return made

    def no_value(*_: Any) -> Any:
        return made_of["Nothing"]()

    def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Any:
        made = made_of["Array"]()
        made.state = (shape, dtype, order == "F", bytes(raw))
        return made

    def new_index(_: Any, fields: Any) -> Any:
        made = made_of["Index"]()
        made.state = fields
        return made

    def reconstruct(*_: Any) -> Any:
        return made_of["Array"]()

    def scalar(dtype: Any, raw: Any = b"") -> Any:
        return _array(((), dtype, False, raw)).reshape(())[()]

    return made_of | _plain_parts() | {
        "DataFrame": made_of["Frame"], "BlockManager": made_of["Manager"], "ndarray": made_of["Array"],
        "dtype": made_of["Dtype"], "object": Object, "_new_Index": new_index, "_reconstruct": reconstruct,
        "scalar": scalar, "backed": backed, "nothing": made_of["Nothing"](), "no_value": no_value,
        "_frombuffer": from_buffer,
    }  # fmt: skip


def _plain_parts() -> dict[str, Any]:
    """The functions that make nothing of a kind of its own."""

    def restore_array(data: Any) -> Any:
        return ("arrow", data)

    def chunked_array(chunks: Any, _: Any = None) -> Any:
        return ("chunks", chunks)

    def raw_bytes(raw: Any = b"", *_: Any) -> bytes:
        return encode(raw) if isinstance(raw, str) else bytes(raw) if isinstance(raw, bytes | bytearray) else b""

    def first(one: Any) -> Any:
        return one

    def new_block(values: Any, placement: Any, *_: Any, **__: Any) -> Any:
        return {"values": values, "mgr_locs": placement}

    def reconstructor(cls: Any, *_: Any) -> Any:
        return cls()

    def encode(text: Any, *_: Any) -> bytes:
        return str(text).encode("latin1")

    return {
        "slice": slice, "_unpickle_block": new_block, "new_block": new_block, "_reconstructor": reconstructor,
        "encode": encode, "_restore_array": restore_array, "type_for_alias": first, "py_buffer": first,
        "chunked_array": chunked_array, "bytearray": raw_bytes,
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
    if code in ("M8", "m8"):
        return np.dtype(f"{code}[ns]")
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
    if _is(value, "Nothing"):
        return None
    if isinstance(value, list | tuple):
        return tuple(_cell(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return value.decode("latin1") if isinstance(value, bytes) else value
    raise _RefusedError("holds a cell that is not text, a number or a list")


def _values(part: Any) -> np.ndarray:
    if _is(part, "Array"):
        return _array(part.state)
    if _is(part, "Index"):
        return _index(part)
    if _is(part, "Masked"):
        values, gone = (_values(part.state[name]) for name in ("_data", "_mask"))
        return _with_none(values, gone)
    if _is(part, "Arrow"):
        state = part.state
        array = _arrow(state["_pa_array"] if "_pa_array" in state else state["_data"])
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if _is(part, "Backed"):
        return _backed(part.state)
    raise _RefusedError("holds a column of a type that is not known (an extension of pandas)")


def _with_none(values: np.ndarray, gone: np.ndarray) -> np.ndarray:
    found = values.astype(object)
    found[gone.astype(bool)] = None
    return found


def _backed(state: Any) -> np.ndarray:
    """Text, times or categories, which are an array and a dtype: in a tuple, or under names that versions differ in."""
    if isinstance(state, dict):
        dtype = state.get("_dtype")
        array = next((state[name] for name in ("_ndarray", "_codes", "_data") if name in state), None)
    else:
        parts = list(state) if isinstance(state, tuple) else []
        dtype = next((one for one in parts if _is(one, "Kind")), None)
        array = next((one for one in parts if _is(one, "Array")), None)
    values = _values(array)
    categories = _categories(dtype)
    if categories is None:
        return values
    gone = values < 0
    return _with_none(categories.astype(object)[np.where(gone, len(categories) - 1, values)], gone)


def _categories(dtype: Any) -> np.ndarray | None:
    if not _is(dtype, "Kind"):
        return None
    if isinstance(dtype.state, dict) and _is(dtype.state.get("categories"), "Index"):
        return _index(dtype.state["categories"])
    return _index(dtype.given[0]) if dtype.given and _is(dtype.given[0], "Index") else None


def _arrow(part: Any) -> pa.Array:
    """An array of pyarrow from its buffers, checked."""
    if isinstance(part, tuple) and len(part) == 2 and part[0] == "chunks":
        chunks = [_arrow(one) for one in part[1]]
        return pa.concat_arrays(chunks) if chunks else pa.nulls(0)
    if not (isinstance(part, tuple) and len(part) == 2 and part[0] == "arrow"):
        raise _RefusedError("holds a column of a type that is not known (an extension of pandas)")
    kind, length, _, offset, buffers, children, dictionary = part[1][:7]
    if kind not in _ARROW_TYPES or children or dictionary is not None:
        raise _RefusedError(f"holds a column of pyarrow's type {str(kind)[:20]!r}")
    made = pa.Array.from_buffers(
        _ARROW_TYPES[kind], length, [None if one is None else pa.py_buffer(bytes(one)) for one in buffers], -1, offset
    )
    made.validate(full=True)
    return made


def _index(index: Any) -> np.ndarray:
    """The elements of an index, of one level."""
    fields = _fields(index)
    if "data" in fields:
        return _values(fields["data"]).reshape(-1)
    return np.arange(int(fields["start"]), int(fields["stop"]), int(fields["step"]))


def _fields(index: Any) -> dict[str, Any]:
    fields = index.state if _is(index, "Index") else None
    if isinstance(fields, tuple) and len(fields) == 2 and isinstance(fields[1], tuple):  # of pandas before 0.15
        fields = {"data": fields[0]}
    if not isinstance(fields, dict):
        raise _RefusedError("holds an index of a type that is not known")
    return fields


def _levels(index: Any) -> dict[Any, np.ndarray]:
    """The values of an index by the name of each level."""
    fields = _fields(index)
    if "levels" not in fields:
        return {fields.get("name"): _index(index)}
    found = {}
    for name, level, codes in zip(fields["names"], fields["levels"], fields["codes"], strict=True):
        at, values = _values(codes), _index(level)
        found[name] = _with_none(values.astype(object)[np.where(at < 0, len(values) - 1, at)], at < 0)
    return found


def _columns(frame: Any) -> dict[str, np.ndarray]:
    if not _is(frame, "Frame"):
        raise _RefusedError(f"holds a {type(frame).__name__} and no DataFrame")
    state = frame.state
    manager = state.get("_data", state.get("_mgr")) if isinstance(state, dict) else None
    if not _is(manager, "Manager"):
        raise _RefusedError("holds a DataFrame without content")
    axes, blocks = _content(manager)
    names, levels = [str(name) for name in _index(axes[0]).tolist()], _levels(axes[1])
    rows = len(next(iter(levels.values())))
    if len(set(names)) != len(names):
        raise _RefusedError("holds two columns of the same name")
    found: dict[str, np.ndarray] = {}
    for block in blocks:
        values, places = _values(block["values"]), _places(block["mgr_locs"], len(names))
        if values.ndim == 1:
            values = values.reshape(1, -1)
        if values.shape != (len(places), rows):
            raise _RefusedError("holds a block of columns whose shape does not fit")
        found.update((names[place], column) for place, column in zip(places, values, strict=True))
    if found.keys() != set(names):
        raise _RefusedError("holds a DataFrame with a column that has no values")
    named = {name: values for name, values in levels.items() if isinstance(name, str) and name not in found}
    return {**named, **{name: found[name] for name in names}}


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
