"""Public names of Encrypted Client Hello, as HTTPS and SVCB records give them (RFC 9460, RFC 9849).

The hello that hides another one inside carries the public name of its ECH configuration in place of the server's.
"""

from __future__ import annotations

from collections.abc import Iterator

from trafficrefinery.services.names import printable_name

SVCB, HTTPS = 64, 65
_ECH_KEY = 5
_ECH_VERSION = 0xFE0D


class _CutError(Exception):
    """The data end before what they announce."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _CutError
        taken, self._position = self._data[self._position : end], end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))


def public_names(record_data: bytes) -> list[str]:
    """The public names in the `ech` parameter of an HTTPS or SVCB record, up to where the record is damaged."""
    found: list[str] = []
    try:
        for key, value in _parameters(_Reader(record_data)):
            if key == _ECH_KEY:
                configurations = _Reader(_Reader(value).vector(2))
                while configurations:
                    version, contents = configurations.number(2), configurations.vector(2)
                    name = printable_name(_public_name(_Reader(contents))) if version == _ECH_VERSION else None
                    found += [name] if name else []
    except _CutError:
        pass
    return found


def _parameters(data: _Reader) -> Iterator[tuple[int, bytes]]:
    data.take(2)  # priority
    while data.vector(1):  # labels of the target, which are never compressed
        pass
    while data:
        yield data.number(2), data.vector(2)


def _public_name(contents: _Reader) -> bytes:
    contents.take(1 + 2)  # id and mechanism of the key
    contents.vector(2)  # the key
    contents.vector(2)  # ciphers
    contents.take(1)  # length of the longest name
    return contents.vector(1)
