"""Link types: what the first header of a frame is. Each is described in a module of this folder."""

from __future__ import annotations

from trafficrefinery.jit import helper
from trafficrefinery.packets.describing import LinkType, Reader, choice, described
from trafficrefinery.packets.layers import CUT, UNSUPPORTED_LINK, WITHIN, u16

_WRAPPERS = 4  # headers that name a link type, one in the other


LINK_TYPES: dict[int, LinkType] = {link.number: link for link in sorted(described(__name__, "LINK_TYPES"))}
"""Those that are read, by number."""


def _reader() -> Reader:
    """The function (number, buffer, i, end) that reads the header of any of them."""
    readers = dict.fromkeys(link.read for link in LINK_TYPES.values() if link.read is not None)
    names = {reader: f"read_{number}" for number, reader in enumerate(readers)}
    results: dict[str, list[int]] = {}
    for link in LINK_TYPES.values():
        behind = f"i + {link.header_bytes}"
        if link.read is not None:
            result = f"{names[link.read]}(buffer, i, end)"
        elif link.type_at is None:
            result = f"({behind}, {link.then})"
        else:
            result = f"({behind}, u16(buffer, i + {link.type_at})) if {behind} <= end else (end, CUT)"
        results.setdefault(result, []).append(link.number)
    known = {"u16": u16, "CUT": CUT, **{name: reader for reader, name in names.items()}}
    return choice("number, buffer, i, end", results, f"(i, {-UNSUPPORTED_LINK})", known)


_read = _reader()


@helper
def first_header(buffer, i, end, link_type):
    """Offset and kind of what follows the capture's own header; a negative kind is the reason why it is not read."""
    for _ in range(_WRAPPERS):
        i, kind = _read(link_type, buffer, i, end)
        if kind < WITHIN:
            return i, kind
        link_type = kind - WITHIN
    return i, -UNSUPPORTED_LINK
