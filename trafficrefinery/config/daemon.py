"""The sections of the configuration that only the daemon reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictInt, ValidationInfo, WithJsonSchema, model_validator

from .fields import PositiveDuration, Rate, Section, Size, once_each
from .text import quoted
from .units import NS_PER_UNIT

SECOND_NS = NS_PER_UNIT["s"]
MIB = 1 << 20
_INTERFACE = re.compile(r"[^\s/]{1,15}")


def _check_interface(name: str) -> str:
    if not _INTERFACE.fullmatch(name):
        raise ValueError(f'{quoted(name)} is not the name of an interface; `ip link` lists them, such as "eth1"')
    return name


def split_listen(listen: str) -> tuple[str, int]:
    """The address and port of `127.0.0.1:9464` or `[::1]:9464`."""
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_listen(listen: str) -> str:
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65536) or (":" in host and not host.startswith("[")):
        raise ValueError(f'{quoted(listen)} is not an address and port; write them as "127.0.0.1:9464" or "[::1]:9464"')
    return listen


InterfaceName = Annotated[str, AfterValidator(_check_interface)]
Listen = Annotated[
    str, AfterValidator(_check_listen), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:9464"]})
]


class Capture(Section):
    """Where the daemon captures packets."""

    source: Literal["afpacket", "afxdp", "pcap"] = Field(
        default="afpacket",
        alias="Source",
        description="afpacket: memory-mapped rings of the Linux kernel, one for each worker. "
        "afxdp: AF_XDP sockets, which take the packets away from the machine's own network stack. "
        "pcap: libpcap, one worker.",
    )
    interfaces: Annotated[tuple[InterfaceName, ...], AfterValidator(once_each)] = Field(
        default=(), alias="Interfaces", description="Interfaces to capture on, such as both ports of a TAP."
    )
    workers: StrictInt | None = Field(
        default=None, alias="Workers", ge=1, le=256, description="Capture processes; default: one for each of Cpus."
    )
    cpus: Annotated[tuple[Annotated[StrictInt, Field(ge=0)], ...], AfterValidator(once_each)] | None = Field(
        default=None, alias="Cpus", description="Cores that workers are pinned to, in turn; default: all but the first."
    )
    realtime_priority: StrictInt = Field(
        default=0, alias="RealtimePriority", ge=0, le=99, description="SCHED_FIFO priority of workers; 0: none."
    )
    ring_bytes: Size = Field(
        default=256 * MIB, alias="RingSize", description="Ring of each worker and interface; 256MiB: 125 ms at 10 GbE."
    )
    rate_bps: Rate | None = Field(
        default=None,
        alias="Rate",
        description="Highest rate that an interface receives. `config check` and `run` warn if RingSize cannot hold it "
        "while a hung worker is replaced (Daemon.HangTimeout). null: not checked.",
    )
    block_bytes: Size = Field(
        default=MIB,
        alias="BlockSize",
        description="A power of two. The ring holds RingSize / BlockSize blocks, one for each BlockTimeout at least.",
    )
    block_timeout_ns: PositiveDuration = Field(
        default=20 * NS_PER_UNIT["ms"],
        alias="BlockTimeout",
        description="Time after which a partly filled block is handed over; whole milliseconds.",
    )
    fanout: Literal["addresses", "hash", "cpu", "queue"] = Field(
        default="addresses",
        alias="Fanout",
        description="How packets are distributed to workers. addresses: by the pair of IP addresses, so that both "
        "directions and all fragments meet. hash, cpu, queue: the kernel's own; records may then split a flow.",
    )
    filter: str = Field(
        default="",
        alias="Filter",
        description='tcpdump filter expression, such as "not port 22". With Source "pcap" it applies to DNS as well.',
    )
    promiscuous: StrictBool = Field(
        default=True, alias="Promiscuous", description="Put the interfaces into promiscuous mode."
    )
    ignore_outgoing: StrictBool = Field(
        default=False, alias="IgnoreOutgoing", description="Ignore frames that this machine sends."
    )
    duplicates: Literal["keep", "count", "drop"] = Field(
        default="keep",
        alias="Duplicates",
        description="What to do with frames that a mirror port delivers twice within a millisecond.",
    )

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.block_bytes < 4096 or self.block_bytes & (self.block_bytes - 1):
            raise ValueError("BlockSize must be a power of two, 4KiB at least")
        if self.ring_bytes % self.block_bytes or self.ring_bytes < 2 * self.block_bytes:
            raise ValueError("RingSize must be a multiple of BlockSize, two blocks at least")
        if self.source == "pcap" and self.workers not in (None, 1):
            raise ValueError('Source "pcap" has one worker; remove Workers, or set Source to "afpacket"')
        if self.source == "afxdp" and self.fanout not in ("addresses", "queue"):
            raise ValueError(
                f'Source "afxdp" has no Fanout "{self.fanout}"; set it to "addresses" or "queue", or set Source to '
                '"afpacket"'
            )
        return self


class Metrics(Section):
    """Prometheus metrics and the query interface."""

    listen: Listen | None = Field(
        default="127.0.0.1:9464", alias="Listen", description="Address and port; null: no listener."
    )
    host_names: tuple[str, ...] = Field(
        default=(),
        alias="HostNames",
        description="Host names accepted for /api/v1/, in addition to localhost and the machine's addresses.",
    )


def _beside_config(path: Path | None, info: ValidationInfo) -> Path | None:
    base: Path = (info.context or {}).get("base", Path())
    return path and (base / path).absolute()


class Privacy(Section):
    """Anonymised addresses (Crypto-PAn)."""

    key_file: Annotated[Path | None, AfterValidator(_beside_config)] = Field(
        default=None,
        alias="KeyFile",
        description="32 random bytes, readable by their owner only; relative to this file. "
        "null: addresses are not anonymised.",
    )


class Daemon(Section):
    """How processes are supervised."""

    state_folder: Path | None = Field(
        default=None,
        alias="StateFolder",
        description="Folder for state that survives a restart; default: $STATE_DIRECTORY, else "
        "~/.local/state/trafficrefinery.",
    )
    hang_timeout_ns: PositiveDuration = Field(
        default=10 * SECOND_NS,
        alias="HangTimeout",
        description="A process that has not responded for this long is restarted.",
    )
    max_waiting_bytes: Size = Field(
        default=2048 * MIB,
        alias="MaxWaiting",
        description="Memory for rows on their way to the sinks; beyond it, rows are dropped and counted.",
    )
    max_short_flows: StrictInt | None = Field(
        default=20_000,
        alias="MaxShortFlows",
        ge=0,
        description="Records of flows with one or two packets in an interval, for each service and interval, such as a "
        "flood of spoofed addresses makes; more of them are counted, and have none. null: no limit.",
    )
