"""The packets of each service in a trace of its own.

A flow may get its service packets after its first one. So this is a second pass over the traces: the first tells which
flow has which service, by 5-tuple and first packet; here each packet finds its flow as it did there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.file import PcapWriter, TraceReader
from trafficrefinery.capture.frames import Block
from trafficrefinery.config import Config
from trafficrefinery.flowcache import find, flow_hash, insert, new_seed
from trafficrefinery.jit import address_of, borrowed, kernel, records
from trafficrefinery.kernel import (
    DECAPSULATE,
    FRAGMENT,
    FRAGMENT_SETS,
    FRAGMENT_WAYS,
    GRACE,
    IDLE,
    PARTITION,
    WATERMARK,
    know_fragment,
)  # fmt: skip
from trafficrefinery.walkthrough import EXTRACTING, Progress
from trafficrefinery.wire import DECAPSULATIONS, PACKET, parse

_KEY = ("a_hi", "a_lo", "b_hi", "b_lo", "a_port", "b_port", "protocol")
_TUPLE = np.dtype(
    [
        *((name, PACKET[name]) for name in _KEY),
        ("last_ns", "i8"),  # of the flow that is open
        ("service", "i8"),  # of the flow that is open; -1: none
        ("first_flow", "i8"),  # its flows lie in a row
        ("flows", "i8"),
    ],
    align=True,
)
"""A 5-tuple with a flow of a service, and how far the pass is with it."""
_FLOW = np.dtype([("first_ns", "i8"), ("service", "i8")])
_NEVER = -(1 << 62)
_MAX_NAME_BYTES = 200


class Selector:
    """Tells of each frame, in the order of capture, which service it belongs to.

    Args:
        flows: ROW_HEADER of all flows of services, see `Aggregator.flows`.
    """

    def __init__(self, config: Config, flows: NDArray[Any]) -> None:
        keys = np.empty(len(flows), [(name, PACKET[name]) for name in _KEY])
        for name in _KEY:
            keys[name] = flows[name]
        unique, tuple_of_flow, counts = np.unique(keys, return_inverse=True, return_counts=True)
        self._tuples = records(np.zeros(len(unique), _TUPLE))
        for name in _KEY:
            self._tuples[name] = unique[name]
        self._tuples["flows"], self._tuples["first_flow"] = counts, np.cumsum(counts) - counts
        self._tuples["last_ns"] = _NEVER
        self._flows = records(np.zeros(len(flows), _FLOW))
        order = np.argsort(tuple_of_flow, kind="stable")
        for name in ("first_ns", "service"):
            self._flows[name] = flows[name][order]
        self._partition = records(np.zeros(1, PARTITION))
        control = self._partition[0]["control"]
        control[GRACE], control[IDLE] = config.grace_ns, config.flow_cache.idle_timeout_ns
        control[DECAPSULATE] = sum(DECAPSULATIONS[name] for name in config.decapsulate)
        control[WATERMARK] = _NEVER
        self._fragments = records(np.zeros(FRAGMENT_SETS * FRAGMENT_WAYS, FRAGMENT))
        self._partition["fragments"] = address_of(self._fragments)
        self._partition["fragments_count"] = len(self._fragments)
        self._partition["seed"] = new_seed()
        self._packet = records(np.zeros(1, PACKET))
        self._index = np.zeros(1 << (2 * len(unique)).bit_length(), np.uint64)
        _index_tuples(self._partition, self._index, self._tuples)

    def services(self, block: Block) -> NDArray[np.int64]:
        """The service of each frame, by number; -1: none."""
        found = np.empty(len(block.frames), np.int64)
        _select(
            self._partition, self._index, self._tuples, self._flows, self._packet, block.buffer, block.frames, found
        )
        return found


@kernel
def _index_tuples(partition: Any, index: NDArray[np.uint64], tuples: Any) -> None:
    for slot in range(len(tuples)):
        insert(index, flow_hash(tuples[slot], partition[0].seed), slot)


@kernel
def _select(  # noqa: PLR0913, PLR0917 (compiled: a record cannot hold arrays)
    partition: Any, index: NDArray[np.uint64], tuples: Any, flows: Any, packet: Any, buffer: NDArray[np.uint8],
    frames: Any, found: NDArray[np.int64],
) -> None:  # fmt: skip
    """See `Selector.services`. What is a new flow is decided as in `kernel.update_batch`."""
    p = borrowed(partition)[0]
    c = p.control
    r = packet[0]
    for i in range(len(frames)):
        frame = frames[i]
        found[i] = -1
        c[WATERMARK] = max(c[WATERMARK], frame.ts_ns)
        if parse(buffer, frame, c[DECAPSULATE], 0, r) != 0 or (r.fragment != 0 and not know_fragment(p, r)):
            continue
        r.hash = flow_hash(r, p.seed)
        slot = find(index, tuples, r)
        if slot < 0:
            continue
        t = tuples[slot]
        seen = max(r.ts_ns, c[WATERMARK] - c[GRACE])
        if seen - t.last_ns > c[IDLE]:
            t.service = -1  # a flow without a service lies between two that have one
            for number in range(t.first_flow, t.first_flow + t.flows):
                if flows[number].first_ns == r.ts_ns:
                    t.service = flows[number].service
        t.last_ns = max(t.last_ns, seen)
        found[i] = t.service


def write_traces(
    config: Config, flows: NDArray[Any], paths: Sequence[str], directory: Path, progress: Progress
) -> dict[str, int]:
    """Write the packets of each service to `directory/SERVICE.pcap`, in the order of capture, with their real lengths.

    A pcap file has one link type: of a service with several, each further one gets a file `SERVICE.linkN.pcap`.
    What is written is what the first pass attributed, unless flows had to leave a full flow cache there.

    Returns:
        Service → packets, of services that have any.

    Raises:
        OutputError: a file cannot be written; those that are not complete are removed.
    """
    selector = Selector(config, flows)
    names = [service.name for service in config.services]
    stems = file_stems(names)
    written = dict.fromkeys(names, 0)
    packets = 0
    with contextlib.ExitStack() as stack, TraceReader(paths) as reader:
        writers: dict[tuple[int, int], PcapWriter] = {}
        for block in reader:
            found = selector.services(block)
            for service in np.unique(found[found >= 0]).tolist():
                mine = found == service
                written[names[service]] += int(mine.sum())
                for link_type in np.unique(block.frames["link_type"][mine]).tolist():
                    if (service, link_type) not in writers:
                        further = any(number == service for number, _ in writers)
                        name = f"{stems[service]}{f'.link{link_type}' if further else ''}.pcap"
                        writers[service, link_type] = stack.enter_context(PcapWriter(directory / name, link_type))
                    chosen = mine & (block.frames["link_type"] == link_type)
                    writers[service, link_type].write_frames(block, np.asarray(chosen))
            packets += len(block.frames)
            progress(EXTRACTING, packets, reader.position_bytes, reader.total_bytes)
    return {name: count for name, count in written.items() if count}


def file_stems(services: Sequence[str]) -> list[str]:
    """A file name for each service, without its suffix: unlike each other on every file system, and no path."""
    stems: list[str] = []
    taken: set[str] = set()
    for name in services:
        plain = "".join(letter if letter.isalnum() or letter in "+-_." else "_" for letter in name)
        stem = base = plain.lstrip(".").encode()[:_MAX_NAME_BYTES].decode(errors="ignore") or "_"
        number = 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{base}_{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
