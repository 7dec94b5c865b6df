"""Pickles of data frames as Python 2 and an old pandas wrote them: protocol 2, their names, text as bytes."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import numpy as np


class _Global:
    """A name in a pickle that need not be anywhere."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Call:
    """What `function(*args)` made, and its state."""

    def __init__(self, function: Any, args: tuple[Any, ...], state: Any = None, *, new: bool = False) -> None:
        self.function, self.args, self.state, self.new = function, args, state, new


class _Py2Pickler(pickle._Pickler):
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(pickle.NEWOBJ if obj.new else pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        elif isinstance(obj, bytes):  # str of Python 2
            self.write(b"T" + struct.pack("<i", len(obj)) + obj)
        elif isinstance(obj, np.ndarray):
            self.save(_array(obj))
        else:
            super().save(obj, save_persistent_id)


def _dtype(kind: np.dtype) -> _Call:
    code = kind.str.lstrip("<>|=")
    code = {"O": "O8"}.get(code, code).encode()
    order = b"|" if kind.str[0] == "|" else b"<"
    state = (3, order, None, None, None, -1, -1, 63 if code == b"O8" else 0)
    return _Call(_Global("numpy", "dtype"), (code, 0, 1), state)


def _array(values: np.ndarray) -> _Call:
    objects = values.dtype == np.dtype("O")
    raw: Any = values.reshape(-1, order="F").tolist() if objects else values.tobytes("F")
    if objects:
        raw = [item.encode() if isinstance(item, str) else item for item in raw]
    made = _Call(_Global("numpy.core.multiarray", "_reconstruct"), (_Global("numpy", "ndarray"), (0,), b"b"))
    made.state = (1, values.shape, _dtype(values.dtype), True, raw)
    return made


def _index(data: np.ndarray) -> _Call:
    fields = {b"data": data, b"name": None}
    return _Call(_Global("pandas.indexes.base", "_new_Index"), (_Global("pandas.indexes.base", "Index"), fields))


def _column(values: list[Any]) -> np.ndarray:
    if {type(value) for value in values} <= {int, float, bool}:
        return np.asarray(values)
    made = np.empty(len(values), object)
    made[:] = values
    return made


def frame_pickle(columns: dict[str, Any]) -> bytes:
    """A data frame with these columns: numbers in one block of floats and one of integers, the others as objects."""
    arrays = {name: _column(values) for name, values in columns.items()}
    names = list(columns)
    axes = [_index(np.array([name.encode() for name in names], object)), _index(np.arange(len(arrays[names[0]])))]
    blocks = []
    for kind in ("f", "i", "b", "O"):
        places = [place for place, name in enumerate(names) if arrays[name].dtype.kind == kind]
        if places:
            values = np.empty((len(places), len(arrays[names[0]])), arrays[names[places[0]]].dtype)
            for row, place in enumerate(places):
                values[row] = arrays[names[place]]
            blocks.append({b"values": values, b"mgr_locs": np.array(places)})
    state = (axes, [], [], {b"0.14.1": {b"axes": axes, b"blocks": blocks}})
    manager = _Call(_Global("pandas.core.internals", "BlockManager"), (), state, new=True)
    frame = _Call(
        _Global("pandas.core.frame", "DataFrame"),
        (),
        {b"_metadata": [], b"_typ": b"dataframe", b"_data": manager},
        new=True,
    )
    return pickled(frame)


def pickled(thing: Any) -> bytes:
    out = io.BytesIO()
    _Py2Pickler(out, 2).dump(thing)
    return out.getvalue()


def calling(module: str, name: str, *args: Any) -> Any:
    """A pickle that calls a function when it is loaded."""
    return _Call(_Global(module, name), args)
