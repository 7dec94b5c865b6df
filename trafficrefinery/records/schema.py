"""Rows to records: columns with names and units as the record schema has them, JSON lines and Parquet."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import socket
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.engine.connection import ENDS
from trafficrefinery.engine.feature_classes.fields import OutputField
from trafficrefinery.jit.lazy import Late
from trafficrefinery.services.sources import MATCHED_BY

from .privacy import Anonymiser

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
else:
    pl, pa = Late("polars"), Late("pyarrow")

SCHEMA = 2
_SIDES = (None, "client", "server", "both")  # by CLIENT_SEEN and SERVER_SEEN of the row
_V4_MAPPED = np.uint64(0xFFFF)

FLOW_FIELDS = {
    "schema": "Version of the schema.",
    "kind": "`flow`.",
    "sensor": "Name of the observer: `Sensor` in the configuration, or the host name.",
    "ts_start": "Start of the interval, seconds since the epoch.",
    "ts_end": "End of the interval, seconds since the epoch.",
    "service": "Name of the service, from the configuration.",
    "matched_by": "What identified the service; see below.",
    "domain": "The name that matched; null if the service was identified by a prefix.",
    "protocol": "`tcp` or `udp`.",
    "client_ip": "Address of the client.",
    "client_port": "Port of the client.",
    "server_ip": "Address of the server. The side that matched the service is the server.",
    "server_port": "Port of the server.",
    "flow_id": "16 hexadecimal digits, the same in all intervals of a flow.",
    "flow_start": "Time of the first packet of the flow, seconds since the epoch.",
    "end": "How the flow has ended so far: `fin`, `rst`, `idle`, `evicted`, or `open`; see below.",
    "sides": "The ends from which packets were seen: `both`, `client` or `server`.",
}
"""What the fields of a flow record mean, for the reference pages."""


def flow_columns(
    rows: NDArray[Any] | Mapping[str, NDArray[Any]], interval_ns: int, names: Sequence[str],
    services: Sequence[str], sensor: str, anonymiser: Anonymiser | None = None,
) -> tuple[dict[str, Any], NDArray[np.intp]]:  # fmt: skip
    """The columns of a record that do not depend on feature classes, from rows with a ROW_HEADER `flow`.

    Times are seconds since the epoch as float64; `flow_id` is 16 hex digits of SHA-256 over protocol, client and
    server address and port, and flow start in nanoseconds. With an anonymiser it is of keyed BLAKE2b in place of
    SHA-256, so that nobody finds the addresses by trying all of them.

    Returns:
        The columns, ordered by `flow_id`, and that order of the rows.
    """
    flow = rows["flow"]
    a_client = flow["client_is_a"].astype(bool)
    client, server = ([np.where(a_client == is_client, flow[f"a_{part}"], flow[f"b_{part}"])
                       for part in ("hi", "lo", "port")] for is_client in (True, False))  # fmt: skip
    digest = _sha256 if anonymiser is None else _keyed(anonymiser.flow_id_key)
    digests = _flow_digests(digest, flow["protocol"], client, server, flow["first_ns"])
    if anonymiser is not None:
        client, server = ([*anonymiser.addresses(*end[:2]), end[2]] for end in (client, server))
    order = np.argsort(digests, kind="stable")
    flow = flow[order]
    client, server = [part[order] for part in client], [part[order] for part in server]
    n = len(flow)
    return {
        "schema": pl.Series(np.full(n, SCHEMA)),
        "kind": pl.repeat("flow", n, eager=True),
        "sensor": pl.repeat(sensor, n, eager=True),
        "ts_start": pl.Series(flow["start_ns"] / 1e9),
        "ts_end": pl.Series((flow["start_ns"] + interval_ns) / 1e9),
        "service": _choose(services, flow["service"]),
        "matched_by": _choose(MATCHED_BY, flow["matched_by"]),
        "domain": _choose((*names, None), np.where(flow["name_id"] < 0, len(names), flow["name_id"])),
        "protocol": _choose(("udp", "tcp"), (flow["protocol"] == socket.IPPROTO_TCP).astype(int)),
        "client_ip": address_text(client[0], client[1]),
        "client_port": pl.Series(client[2].astype(np.int64)),
        "server_ip": address_text(server[0], server[1]),
        "server_port": pl.Series(server[2].astype(np.int64)),
        "flow_id": _hex(digests[order]),
        "flow_start": pl.Series(flow["first_ns"] / 1e9),
        "end": _choose(ENDS, flow["end"]),
        "sides": _choose(_SIDES, flow["sides"]),
    }, order


def _choose(words: Sequence[str | None], index: NDArray[Any]) -> pl.Series:
    return pl.Series(words, dtype=pl.String).gather(index.astype(np.uint32))


def address_text(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> pl.Series:
    """IP addresses as text (RFC 5952 for IPv6)."""
    mapped = (hi == 0) & (lo >> np.uint64(32) == _V4_MAPPED)
    halves = _octet_pairs()
    upper = halves.gather(((lo >> np.uint64(16)) & np.uint64(0xFFFF)).astype(np.uint32))
    text = upper + "." + halves.gather((lo & np.uint64(0xFFFF)).astype(np.uint32))
    if mapped.all():
        return text
    known: dict[tuple[int, int], str] = {}
    for pair in zip(hi[~mapped].tolist(), lo[~mapped].tolist(), strict=True):
        if pair not in known:
            known[pair] = socket.inet_ntop(socket.AF_INET6, struct.pack(">QQ", *pair))
    pairs = zip(hi.tolist(), lo.tolist(), strict=True)
    return text.zip_with(pl.Series(mapped), pl.Series([known.get(pair) for pair in pairs], dtype=pl.String))


@functools.cache
def _octet_pairs() -> pl.Series:
    """ "0.0" to "255.255"."""
    return pl.Series([f"{upper}.{lower}" for upper in range(256) for lower in range(256)])


Digest = Callable[[bytes], bytes]


def _sha256(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()[:8]


def _keyed(key: bytes) -> Digest:
    return lambda text: hashlib.blake2b(text, digest_size=8, key=key).digest()


def _flow_digests(
    digest: Digest, protocol: NDArray[Any], client: Sequence[NDArray[Any]], server: Sequence[NDArray[Any]],
    first_ns: NDArray[Any],
) -> NDArray[np.uint64]:  # fmt: skip
    """Digests of 64 bits, see `flow_columns`; ordered as their hex digits are."""
    layout = [("protocol", "u1"), ("client_hi", ">u8"), ("client_lo", ">u8"), ("client_port", ">u2"),
              ("server_hi", ">u8"), ("server_lo", ">u8"), ("server_port", ">u2"), ("first_ns", ">i8")]  # fmt: skip
    keys = np.empty(len(protocol), layout)
    columns = (protocol, *client, *server, first_ns)
    for (name, _), values in zip(layout, columns, strict=True):
        keys[name] = values
    texts = keys.view(f"V{keys.itemsize}").tolist()
    return np.frombuffer(b"".join(map(digest, texts)), ">u8").astype(np.uint64)


def _hex(digests: NDArray[np.uint64]) -> pl.Series:
    text = digests.astype(">u8").tobytes().hex()
    return pl.Series([text[i : i + 16] for i in range(0, len(text), 16)], dtype=pl.String)


class Infinities:
    """Counts the infinite values that became null."""

    count = 0


def infinite_values(values: NDArray[Any], field: OutputField) -> int:
    """How many values of one output field are infinite."""
    if field.kind == "float":
        return int(np.isinf(values).sum())
    if field.kind == "floats":
        kept = np.arange(field.size) < values["n"].astype(np.int64)[:, None]
        return int((np.isinf(values["items"]) & kept).sum())
    return 0


def feature_column(values: NDArray[Any], field: OutputField) -> pl.Series:
    """One output field of all rows; NaN and infinity become null."""
    if field.kind in ("int", "float", "bool"):
        if field.kind == "float":
            values = _finite(np.ascontiguousarray(values))
            return pl.Series(field.name, values, nan_to_null=True)
        values = np.ascontiguousarray(values)
        return pl.Series(field.name, values.astype(bool) if field.kind == "bool" else values)
    items, counts = values["items"], values["n"].astype(np.int64)
    kept = np.arange(field.size) < counts[:, None]
    if field.kind == "bytes":
        return pl.Series(field.name, [_bytes(row[:n], field) for row, n in zip(items, counts.tolist(), strict=True)])
    flat = items[kept]
    if field.kind == "floats":
        flat = _finite(flat)
        known = pa.py_buffer(np.packbits(~np.isnan(flat), bitorder="little"))
        inner = pa.Array.from_buffers(pa.float64(), len(flat), [known, pa.py_buffer(flat)])
    else:
        inner = _numbers(flat)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return pl.Series(field.name, pa.LargeListArray.from_arrays(_numbers(offsets), inner))


def _numbers(values: NDArray[np.int64]) -> pa.Array:
    """As `pa.array`, which imports pandas where that is installed, to see whether the array is one of its own."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values) if infinite.any() else values


def _bytes(row: NDArray[np.uint8], field: OutputField) -> str:
    if field.png_width:
        return base64.b64encode(png_image(row, field.png_width)).decode()
    return row.tobytes().hex()


def png_image(pixels: NDArray[np.uint8], width: int) -> bytes:
    """Grey pixels, row by row, as a PNG file; the last row is filled with zeros. (ISO/IEC 15948.)"""
    height = max(-(-len(pixels) // width), 1)
    grey = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter type, 0
    grey[:, 1:] = np.pad(pixels, (0, height * width - len(pixels))).reshape(height, width)
    file = io.BytesIO(b"")
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(grey.tobytes(), 6)), (b"IEND", b"")):
        file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return file.getvalue()
