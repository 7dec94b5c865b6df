"""Raw bytes of a packet without addresses: header by header, as the standards draw them."""

from __future__ import annotations

from collections.abc import Collection

from support import encapsulations

TELLING_PORTS = {
    53,
    5353,
    5355,
    137,
    138,
    67,
    68,
    546,
    547,
    4789,
    4790,
    5246,
    5247,
    37008,
    8472,
    6081,
    2152,
    2123,
    1701,
    3544,
    3478,
    5349,
    19302,
    *(port for ports in encapsulations.added("PORTS").values() for port in ports),
}


def blanked(raw: bytes, ports: Collection[int]) -> bytes:
    """The bytes from the IP header on; `ports` are those of the flow, which a later fragment does not hold."""
    if raw[0] >> 4 == 4:
        transport, protocol = (raw[0] & 15) * 4, raw[9]
        is_later_fragment = int.from_bytes(raw[6:8]) & 0x1FFF != 0
        while protocol == 51 and not is_later_fragment and transport + 8 <= len(raw):
            protocol, transport = raw[transport], transport + _extension_bytes(51, raw[transport + 1])
        hidden = [(10, 12), (12, 16), (16, 20), (20, transport)]  # checksum, source, destination, options
    else:
        transport, protocol, is_later_fragment = 40, raw[6], False
        while protocol in (0, 43, 44, 51, 60, 135) and not is_later_fragment and transport + 8 <= len(raw):
            is_later_fragment = protocol == 44 and int.from_bytes(raw[transport + 2 : transport + 4]) >> 3 != 0
            protocol, transport = raw[transport], transport + _extension_bytes(protocol, raw[transport + 1])
        hidden = [(8, 24), (24, 40), (40, transport)]  # source, destination, extension headers
    payload = transport
    if not is_later_fragment and protocol == 17:
        hidden.append((transport + 6, transport + 8))
        payload = transport + 8
    elif not is_later_fragment:
        hidden.append((transport + 16, transport + 18))
        payload = transport + (raw[transport + 12] >> 4) * 4 if transport + 12 < len(raw) else len(raw)
        hidden += _multipath(raw, transport + 20, payload)
    if set(ports) & TELLING_PORTS:
        hidden.append((payload, len(raw)))
    return bytes(0 if any(start <= i < stop for start, stop in hidden) else byte for i, byte in enumerate(raw))


def _extension_bytes(kind: int, words: int) -> int:
    return {44: 8, 51: 4 * (words + 2)}.get(kind, 8 * (words + 1))


def _multipath(raw: bytes, at: int, end: int) -> list[tuple[int, int]]:
    """Contents of the options of multipath TCP."""
    found = []
    while at + 1 < min(end, len(raw)) and raw[at] != 0:
        option_bytes = 1 if raw[at] == 1 else raw[at + 1]
        if option_bytes == 0:
            break
        if raw[at] == 30:
            found.append((at + 2, min(at + option_bytes, end)))
        at += option_bytes
    return found
