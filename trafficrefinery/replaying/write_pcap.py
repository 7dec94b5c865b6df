"""The packets of each service in a trace of its own.

A flow may get its service packets after its first one. So this is a second pass over the traces: in the first, the
worker noted the service of each frame (`Worker.trail`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.traces.reader import PcapWriter, TraceReader
from trafficrefinery.config import Config
from trafficrefinery.system.progress import Progress

from .job import EXTRACTING

_MAX_NAME_BYTES = 200


def write_traces(
    config: Config, trail: NDArray[np.int16], traces: TraceReader, directory: Path, progress: Progress
) -> dict[str, int]:
    """Write the packets of each service to `directory/SERVICE.pcap`, in the order of capture, with their real lengths.

    A pcap file has one link type: of a service with several, each further one gets a file `SERVICE.linkN.pcap`.
    What is written is what the worker attributed.

    Args:
        trail: the service of each frame of the traces, by number; -1: none.
        traces: which were read to make it; they are read again, as long as they were.

    Returns:
        Service → packets, of services that have any.

    Raises:
        OutputError: a file cannot be written; those that are not complete are removed.
    """
    names = [service.name for service in config.services]
    stems = file_stems(names)
    written = dict.fromkeys(names, 0)
    packets = 0
    with contextlib.ExitStack() as stack, traces.again() as reader:
        writers: dict[tuple[int, int], PcapWriter] = {}
        for block in reader:
            found = np.full(len(block.frames), -1, np.int16)
            known = trail[packets : packets + len(block.frames)]
            found[: len(known)] = known  # it was cut meanwhile where fewer are
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
            progress(EXTRACTING, reader.position_bytes, reader.total_bytes, packets)
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
