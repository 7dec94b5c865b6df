"""Names bound to services, for compiled code."""

from __future__ import annotations

import struct

from support.dns_messages import message
from trafficrefinery.services.dns.messages import HTTPS


def binding(owner, priority, target, hints, ttl_s):
    """An HTTPS record, as `wire_records` takes it."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in target.split(".") if label) + b"\0"
    params = b"".join(struct.pack(">HH", key, len(value)) + value for key, value in hints)
    return owner, HTTPS, struct.pack(">H", priority) + name + params, ttl_s


def with_bindings(questions, bindings, answers=(), compress=False):
    """A message whose answers begin with ready-made records."""
    plain = message(questions, answers, compress=compress)
    head = message(questions, compress=compress)
    made = b"".join(
        b"".join(bytes([len(label)]) + label.encode() for label in owner.split(".")) + b"\0"
        + struct.pack(">HHIH", rtype, 1, ttl_s, len(data)) + data
        for owner, rtype, data, ttl_s in bindings
    )  # fmt: skip
    count = struct.pack(">H", len(bindings) + len(answers))
    if compress:
        assert not answers
    return head[:6] + count + head[8:] + made + plain[len(head) :]
