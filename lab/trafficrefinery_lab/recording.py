"""A session's trace: captured with the rings of the daemon, cut, and written as compressed pcap."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import zstandard

from trafficrefinery.capture.frames import Block
from trafficrefinery.capture.rings.afpacket import RingReader, open_rings
from trafficrefinery.config.daemon import Capture
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.system.writing import write_file

from .cutting import Cutter

_CAPTURE = Capture.model_validate({"RingSize": "4MiB", "BlockSize": "128KiB", "BlockTimeout": "100ms"})
_PCAP_NS_MAGIC, _SNAP_BYTES, _ETHERNET = 0xA1B23C4D, 65535, 1
_GLOBAL_HEADER, _RECORD_HEADER = struct.Struct("<IHHiIII"), struct.Struct("<IIII")
_EACH_S = 0.2
_LEVEL = 9
_MOST_PACKETS = 5_000_000


class Recording:
    """Captures on an interface of the namespace that the caller is in, from now on.

    Raises:
        UsageError: the kernel refuses.
    """

    def __init__(self, interface: str) -> None:
        self._sockets = open_rings(interface, _CAPTURE, 1)
        self._reader = RingReader(self._sockets)
        self._cutter = Cutter()
        self.packets: list[tuple[int, int, bytes]] = []
        """Of each: time in ns, bytes on the wire, and what is kept."""

    async def run(self) -> None:
        """Take what comes, until cancelled."""
        while True:
            self.take()
            await asyncio.sleep(_EACH_S)

    def take(self) -> None:
        """Take what is there."""
        while (block := self._reader.poll(0.0)) is not None:
            self._take_block(block)

    def _take_block(self, block: Block) -> None:
        if len(self.packets) > _MOST_PACKETS:
            raise TrafficRefineryError(f"a session has more than {_MOST_PACKETS:,} packets; shorten it")
        columns = (block.frames[name].tolist() for name in ("ts_ns", "offset", "captured_bytes", "wire_bytes"))
        for ts_ns, offset, captured_bytes, wire_bytes in zip(*columns, strict=True):
            frame = block.buffer[offset : offset + captured_bytes].tobytes()
            self.packets.append((ts_ns, wire_bytes, frame[: self._cutter.kept_bytes(frame)]))

    def finish(self) -> None:
        """Take the rest and let go of the rings.

        Raises:
            TrafficRefineryError: the trace is not whole.
        """
        self.take()
        losses, oversized = self._reader.losses(), self._reader.oversized_total
        self._reader.close()
        for each in self._sockets:
            each.close()
        if losses.drops or oversized:
            raise TrafficRefineryError(
                f"the capture is not whole: {losses.drops} packets dropped, {oversized} merged by an offload; "
                "run fewer sessions side by side"
            )

    def write(self, path: Path) -> None:
        """Write the trace, in order of time: the two directions are stamped on two processors."""
        self.packets.sort(key=lambda packet: packet[0])
        parts = [_GLOBAL_HEADER.pack(_PCAP_NS_MAGIC, 2, 4, 0, 0, _SNAP_BYTES, _ETHERNET)]
        for ts_ns, wire_bytes, kept in self.packets:
            parts += (_RECORD_HEADER.pack(*divmod(ts_ns, 1_000_000_000), len(kept), wire_bytes), kept)
        write_file(path, zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts)))
