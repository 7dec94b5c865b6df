"""DNS messages to be read."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import strategies as st

from trafficrefinery.services.dns.messages import (
    AAAA,
    CNAME,
    A,
)

RESPONSE = 0x8180


def message(questions=(), answers=(), flags=RESPONSE, compress=False):
    """A message of (name, type) questions and (owner, type, value, ttl) answers; values are names or addresses."""
    out = bytearray(struct.pack(">6H", 1, flags, len(questions), len(answers), 0, 0))
    known = {}

    def add_name(name):
        while name:
            if compress and name in known:
                out.extend(struct.pack(">H", 0xC000 | known[name]))
                return
            known.setdefault(name, len(out))
            label, _, name = name.partition(".")
            out.extend(bytes([len(label)]) + label.encode())
        out.append(0)

    for name, qtype in questions:
        add_name(name)
        out.extend(struct.pack(">HH", qtype, 1))
    for owner, rtype, value, ttl_s in answers:
        add_name(owner)
        out.extend(struct.pack(">HHIH", rtype, 1, ttl_s, 0))
        start = len(out)
        if rtype == CNAME:
            add_name(value)
        else:
            out.extend(ipaddress.ip_address(value).packed)
        out[start - 2 : start] = struct.pack(">H", len(out) - start)
    return bytes(out)


LABELS = st.text("abcxyz019-_", min_size=1, max_size=8)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
TTLS = st.integers(0, 2**31 - 1)
ANSWERS = st.one_of(
    st.tuples(NAMES, st.just(A), st.ip_addresses(v=4).map(str), TTLS),
    st.tuples(NAMES, st.just(AAAA), st.ip_addresses(v=6).map(str), TTLS),
    st.tuples(NAMES, st.just(CNAME), NAMES, TTLS),
)
