"""The columns of the published dataset (Bronzino et al., POMACS 3(3), 2019): which are used, and why others are not."""

from __future__ import annotations

import re
from typing import NamedTuple

from trafficrefinery.api.sessions import APPLICATION, NETWORK, TRANSPORT

LAYER = re.compile(r"^L[347]_")
"""One of the tables has the layer before the name."""

_LABEL, _CONSTANT = "made from the player's log, as the label", "the same value in every row"

DROPPED: tuple[tuple[str, str], ...] = (
    (
        r"bitrate|bitrate_change|previous_bitrate|quality|c_\w+|n_\w+_switches",
        "made from the player's log, as the label",
    ),
    (r"n_rebufferings|startup(3\.3|5|6\.6|10|_mc)|ads", _LABEL),
    (r"deployment_session_id|video_duration", "identifies a session or a video"),
    (r"absolute_timestamp|avg_flow_age", "leaks the date of the capture"),
    (r"(access|wireless)_\w+", "measured by the home's gateway: not to be seen in traffic"),
    (r".*(50|75|85|90)R", "the same as the column without R"),
    (
        r"index|chunk_(start|end)_time|curr_chunksize|current_chunk_iat|size_diff_previous",
        "the same value in every row",
    ),
    (r"(user|server)(Goodput|Throughput|IdleTime|UrgFlags|BitrateChange)", _CONSTANT),
    (r"video_position", "the same as relative_timestamp"),
    (r"up_chunk_iat_(75|85|90)", "holds the median in place of the quantile"),
    (r"(user|server)\w*Retransmit", "counts repeated ACKs as retransmissions"),
    (r"(user|server)OutOfOrder\w+", "counts all of a new flow as out of order"),
    (r"(user|server)(Str|End)Bytes(PerPacket|InFlight)", "is not what its name says"),
    (r"total_throughput_(up|down)", "is of all traffic of a home, not of the session"),
)
"""Names (regular expressions) and the reason why they are dropped."""

KEPT: tuple[tuple[str, str], ...] = (
    (r"(all_prev_)?(up|down)_chunk_iat_(50|75|85|90)", APPLICATION),
    (r"(user|server)\w*InterArrivalTime", NETWORK),
    (r"(user|server)(Avg|Min|Max|Med|Std|Ske|Kur)(BytesInFlight|BytesPerPacket|RTT|Rwnd)", TRANSPORT),
)
"""Columns without a counterpart here that say something; they are kept as `published.NAME`."""

METADATA = (
    "session_id",
    "video_id",
    "home_id",
    "service",
    "is_tcp",
    "relative_timestamp",
    "resolution",
    "startup_time",
)
"""Columns that become others, or labels."""


class Fate(NamedTuple):
    """What becomes of a column that has no counterpart: kept in a group, or dropped for a reason."""

    group: str | None
    reason: str


def fate_of(name: str) -> Fate:
    """What becomes of a column that is neither in `METADATA` nor the counterpart of a session feature's."""
    for pattern, reason in DROPPED:
        if re.fullmatch(pattern, name):
            return Fate(None, reason)
    for pattern, group in KEPT:
        if re.fullmatch(pattern, name):
            return Fate(group, "")
    return Fate(None, "not a known column of the published dataset")
