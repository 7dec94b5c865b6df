"""Community ID of flows, by which other tools name them."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import struct

import polars as pl

COMMUNITY_ID = "community_id"
_NUMBERS = {"tcp": 6, "udp": 17}


def community_id(protocol: str, one: tuple[str, int], other: tuple[str, int]) -> str:
    """The ID of a flow of TCP or UDP, the same in both directions, with the seed 0.

    (Community ID Flow Hashing, version 1, https://github.com/corelight/community-id-spec.)

    Args:
        one: address and port of an end.
    """
    ends = sorted((ipaddress.ip_address(address).packed, port) for address, port in (one, other))
    (low, low_port), (high, high_port) = ends
    whole = struct.pack("!H", 0) + low + high + struct.pack("!BBHH", _NUMBERS[protocol], 0, low_port, high_port)
    return "1:" + base64.b64encode(hashlib.sha1(whole, usedforsecurity=False).digest()).decode()


def with_community_id(flows: pl.DataFrame) -> pl.DataFrame:
    """A table of flows with a column `community_id`."""
    ends = flows.select("protocol", "client_ip", "client_port", "server_ip", "server_port")
    known: dict[tuple[str, str, int, str, int], str] = {
        row: community_id(row[0], row[1:3], row[3:]) for row in ends.unique().iter_rows()
    }
    return flows.with_columns(pl.Series(COMMUNITY_ID, [known[row] for row in ends.iter_rows()], pl.String))
