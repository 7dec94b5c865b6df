"""Live capture through libpcap, for systems without packet rings and for a libpcap with a driver of its own.

Each packet is copied and passes through Python: for some ten thousand packets a second.
"""

from __future__ import annotations

import importlib
import re
import select
import time
from types import ModuleType
from typing import Any

import numpy as np

from trafficrefinery.config.daemon import Capture
from trafficrefinery.config.units import NS_PER_UNIT
from trafficrefinery.errors import UsageError
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.link_types import LINK_TYPES
from trafficrefinery.packets.parser import TAG_BYTES

from .frames import FRAME, Block, Losses
from .interfaces import find_link

_SNAP_BYTES, _MOST_BUFFER_BYTES, _ONLY_INCOMING = 262_144, (1 << 31) - 1, 1
_LINK_TYPES = {link.dlt if link.dlt is not None else link.number: link for link in LINK_TYPES.values()}
"""By DLT_ number: libpcap has other numbers for some link types than files do."""
_COUNTER_MODULUS = 1 << 32


def _module() -> ModuleType:
    try:
        return importlib.import_module("pcap")
    except ImportError:
        raise UsageError(
            'Capture.Source: "pcap" needs the package pypcap, which there is up to Python 3.11; set Source to '
            '"afpacket", or use that'
        ) from None


class PcapReader:
    """Frames of one interface, block by block; as `afpacket.RingReader`, but for the copies.

    Raises:
        UsageError: pypcap is missing, or libpcap refuses the interface or the filter; with its words.
    """

    def __init__(self, interface: str, capture: Capture, *, frames_per_block: int = 1024) -> None:
        module = _module()
        self._link = find_link(interface)
        try:
            # pypcap has no type information.
            self._pcap: Any = module.pcap(
                interface,
                snaplen=_SNAP_BYTES,
                promisc=capture.promiscuous,
                timeout_ms=max(1, capture.block_timeout_ns // NS_PER_UNIT["ms"]),
                timestamp_in_ns=True,
                buffer_size=min(capture.ring_bytes, _MOST_BUFFER_BYTES),
            )
        except OSError as error:
            raise UsageError(
                f"Capture.Interfaces: {interface}: libpcap refuses it ({_reason(error)}); it needs the capabilities "
                "CAP_NET_RAW and CAP_NET_ADMIN, which the systemd unit grants (AmbientCapabilities), and an interface "
                "that is up"
            ) from None
        self._set_up(interface, capture)
        self._frames = table(frames_per_block, FRAME)
        self._packets: list[bytes] = []
        self._times_ns: list[int] = []
        self._last = np.zeros(2, np.int64)
        self._failed = False
        self.oversized_total = 0

    def _set_up(self, interface: str, capture: Capture) -> None:
        try:
            if capture.filter:
                self._pcap.setfilter(capture.filter)
        except OSError as error:
            self._pcap.close()
            raise UsageError(
                f'Capture.Filter: "{capture.filter}" is not a filter expression: {_reason(error)}; see pcap-filter(7)'
            ) from None
        link = _LINK_TYPES.get(self._pcap.datalink())
        if link is None:
            number = self._pcap.datalink()
            self._pcap.close()
            raise UsageError(
                f"Capture.Interfaces: {interface} is of a kind that is not supported (DLT number {number}); supported "
                "are Ethernet, loopback, links with plain IP packets, and others of the link types that are read"
            )
        self._link_type = link.number
        self._frame_bytes = self._link.mtu_bytes + link.most_header_bytes
        if capture.ignore_outgoing:
            self._pcap.setdirection(_ONLY_INCOMING)
        self._pcap.setnonblock(True)

    def poll(self, timeout_s: float) -> Block | None:
        """The next frames; None when there are none for this time."""
        self._packets.clear()
        self._times_ns.clear()
        self._read()
        if not self._packets and not self._failed:
            select.select([self._pcap.fileno()], [], [], timeout_s)
            self._read()
        elif not self._packets:
            time.sleep(timeout_s)
        if not self._packets:
            return None
        count = len(self._packets)
        frames = self._frames[:count]
        lengths = np.fromiter(map(len, self._packets), np.int64, count)
        frames["ts_ns"] = self._times_ns
        frames["offset"] = np.cumsum(lengths) - lengths
        # pypcap does not tell the length on the wire; the snap length is larger than any frame.
        frames["captured_bytes"] = frames["wire_bytes"] = lengths
        frames["link_type"] = self._link_type
        self.oversized_total += int((lengths > self._frame_bytes + 2 * TAG_BYTES).sum())
        return Block(np.frombuffer(bytearray().join(self._packets), np.uint8), frames)

    def _read(self) -> None:
        self._failed = self._pcap.dispatch(len(self._frames), self._take) < 0

    def _take(self, ts_ns: int, packet: bytes) -> None:
        self._times_ns.append(ts_ns)
        self._packets.append(packet)

    def release(self) -> None:
        """For sources that hand over memory which is not theirs; here each block has its own."""

    def states(self) -> dict[str, str]:
        """The interface as `up`, `down` or `removed`."""
        try:
            link = find_link(self._link.name)
        except UsageError:
            link = None
        state = "removed" if link is None or link.number != self._link.number else "up" if link.is_up else "down"
        return {self._link.name: state}

    def losses(self) -> Losses:
        """What happened since the last call; libpcap does not tell of freezes."""
        packets, drops, _ = self._pcap.stats()
        now = np.array((packets - drops, drops), np.int64)
        received, dropped = ((now - self._last) % _COUNTER_MODULUS).tolist()
        self._last = now
        return Losses(received, dropped, 0)

    def close(self) -> None:
        self._pcap.close()


def _reason(error: OSError) -> str:
    """libpcap's words: pypcap hands them on as bytes, or as bytes that were printed."""
    words = error.args[0] if error.args else b""
    if isinstance(words, bytes):
        return words.decode(errors="replace")
    printed = re.search(r"b['\"](.*)['\"]", str(words))
    return printed[1] if printed else str(words)
