"""Arrays in `.npz` files that somebody else made: of numbers only, and within a limit on what they unpack to.

NumPy takes the memory that a header asks for before it sees whether the numbers are there, and a zip file's table of
contents alone can take gigabytes.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trafficrefinery.system.files import open_regular

_MOST_CONTENTS_BYTES = 1 << 20
_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def zip_names(path: Path) -> list[str]:
    """What is in a zip file; nothing of a file that is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: its table of contents is too long.
    """
    with _opened(path) as opened:
        try:
            _check_contents(opened)
            with zipfile.ZipFile(opened) as packed:
                return packed.namelist()
        except zipfile.BadZipFile:
            return []


def read_arrays(path: Path, most_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays in an `.npz` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, unpacks to more than `most_bytes`, or holds something else than arrays of numbers.
    """
    try:
        with _opened(path) as opened:
            _check_contents(opened)
            with zipfile.ZipFile(opened) as packed:
                members = packed.infolist()
                unpacked_bytes = sum(member.file_size for member in members)
                if unpacked_bytes > most_bytes:
                    raise ValueError(
                        f"{path.name} unpacks to {unpacked_bytes >> 20:,} MiB; at most {most_bytes >> 20:,} are allowed"
                    )
                return {member.filename.removesuffix(".npy"): _array(packed, member) for member in members}
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def _opened(path: Path) -> BinaryIO:
    return open(path, "rb", opener=open_regular)


def _check_contents(opened: BinaryIO) -> None:
    """All of the table of contents is read, each entry of 46 bytes taking ten times as much."""
    module: Any = zipfile
    end = module._EndRecData(opened)  # noqa: SLF001 (zipfile itself looks nowhere else)
    if end and end[module._ECD_SIZE] > _MOST_CONTENTS_BYTES:  # noqa: SLF001
        raise ValueError("its table of contents is too long")


def _array(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in a way that NumPy does not use")
    with packed.open(member) as file:
        version = npy.read_magic(file)
        if version not in _READ_HEADER:
            raise ValueError(f"{member.filename} is of version {version}, which is not read")
        shape, fortran, dtype = _READ_HEADER[version](file)
        if dtype.kind not in "biuf":
            raise ValueError(f"{member.filename} does not hold numbers")
        content = bytearray(file.read(member.file_size))
    if len(content) != math.prod(shape) * dtype.itemsize or any(size < 0 for size in shape):
        raise ValueError(f"{member.filename} does not hold as many numbers as it says")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
