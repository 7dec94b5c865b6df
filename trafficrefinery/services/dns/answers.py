"""What DNS tells, in compiled code: queries are remembered, answers to them teach which service an address belongs to.

An answer that nobody asked for teaches nothing where queries are seen. Where none are (a tap that sees one direction),
it counts for the client that it was sent to, and for nobody else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import address_of, helper, table_at
from trafficrefinery.jit.memory import table
from trafficrefinery.services.addresses import put_address, says_nothing_new
from trafficrefinery.services.budget import may_spend
from trafficrefinery.services.name_table import UNKNOWN, decide_name, finish, number_name, stir

from .recent import ENTRY, RECENT, find_recent, new_recent, put_recent
from .wire import MAX_NAMES, MESSAGE, NOT_DNS, TOO_LARGE, read_answers, read_header, read_questions

IGNORED, NOTHING, QUERY, MALFORMED, UNASKED, APPLY, ASK, LARGE, PIECE = range(9)
"""What a packet is worth: it holds no message; one that says nothing of services; a query; one that is unreadable; that
nobody asked for; addresses of services, see `apply_answers`; names that expressions have to be asked about first;
a message that `messages` has to read; a piece of a stream that has to be put together."""

QUERY_NS = 60_000_000_000
"""An answer may take so long."""
ONE_SIDED_NS = 3_600_000_000_000
"""Without a query for so long, a tap is taken to see answers only."""
STREAM_NS = 600_000_000_000
QUERIES, ALIASES, STREAMS, LEARNED_MAX = 1 << 16, 1 << 14, 1 << 12, 1 << 10
TELL_UNITS = 3
"""What it costs of the budget to tell others of an address."""
_MAX_OWNERS = 4
"""Names with addresses in a message: each takes a walk through all aliases."""
_UNDECIDED, _BY_ALIAS = -3, -1

LEARNED = np.dtype(
    [("client_hi", "u8"), ("client_lo", "u8"), ("server_hi", "u8"), ("server_lo", "u8"), ("expires_ns", "i8"),
     ("learnt_ns", "i8"), ("name_id", "i8"), ("is_asked", "i8")],
)  # fmt: skip
"""An entry of the log that is kept for others, see `ServiceMap.on_learned`."""

ANSWERS = np.dtype(
    [
        ("message", MESSAGE),
        ("queries", RECENT), ("aliases", RECENT), ("streams", RECENT),
        ("last_query_ns", "i8"),
        ("min_ttl_ns", "i8"),
        ("ask_units", "i8"),  # what it costs of the budget to ask expressions about a name
        ("is_told", "i8"),  # whether what is learnt goes to the log
        # the response at hand
        ("status", "i8"), ("is_mine", "i8"), ("budget_refused", "i8"), ("is_asked", "i8"), ("ts_ns", "i8"),
        ("client_hi", "u8"), ("client_lo", "u8"), ("owners", "i8"), ("applied", "i8"),
        ("unknown", "i8"),  # the name that expressions have to be asked about
        ("stream_start", "i8"),  # of a stream that Python begins to put together; -1: it goes on
        ("name_service", "i4", (MAX_NAMES,)),
        ("choice_service", "i4", (MAX_NAMES,)),  # for an address of that name; _UNDECIDED until it is asked for
        ("choice_name", "i4", (MAX_NAMES,)),  # number in the message, or _BY_ALIAS
        ("choice_id", "i8", (MAX_NAMES,)),
        ("choice_ttl_s", "i8", (MAX_NAMES,)),
        ("chain", "i4", (MAX_NAMES,)),
        # what others are told
        ("learned", "i8"), ("learned_count", "i8"), ("learned_total", "i8"),
        ("addresses_total", "i8"), ("matched_total", "i8"),
    ],
    align=True,
)  # fmt: skip


@helper
def take_message(a, t, buffer, start, end, r, now_ns):
    """Read the DNS message in `buffer[start:end]` that came in the packet `r`; what it is worth.

    Args:
        a: ANSWERS.
        t: NAME_TABLES.
        r: PACKET.
        now_ns: the watermark.
    """
    m = a.message
    if not read_header(buffer, start, end, m):
        return MALFORMED
    status, at = read_questions(buffer, start, end, t.seed, m)
    if status == NOT_DNS:
        return MALFORMED
    if m.is_response == 0:
        if r.dst_port == 53 and (m.questions > 0 or status == TOO_LARGE):
            put_recent(a.queries, _query_key(t, m, r, r.source_is_a != 0), now_ns + QUERY_NS, now_ns)
            a.last_query_ns = now_ns
        return QUERY
    if r.src_port != 53:
        return IGNORED
    a.is_asked = 1 if find_recent(a.queries, _query_key(t, m, r, r.source_is_a == 0), now_ns) >= 0 else 0
    if a.is_asked == 0 and a.last_query_ns >= now_ns - ONE_SIDED_NS:
        return UNASKED
    a.client_hi = r.b_hi if r.source_is_a else r.a_hi
    a.client_lo = r.b_lo if r.source_is_a else r.a_lo
    a.ts_ns = r.ts_ns
    if status == TOO_LARGE:
        return LARGE
    if at >= 0:
        status = read_answers(buffer, start, end, at, t.seed, m)
        if status != TOO_LARGE:
            a.addresses_total += m.addresses
    if status == TOO_LARGE:
        return LARGE
    if status == NOT_DNS:
        return MALFORMED
    return decide_answers(a, t, now_ns, True)


@helper
def _query_key(t, m, r, client_is_a):
    """The hash of what an answer repeats of its query: both ends, id, type and name."""
    h = t.seed
    if client_is_a:
        h = _stir_end(_stir_end(h, r.a_hi, r.a_lo), r.b_hi, r.b_lo)
        port = np.uint64(r.a_port)
    else:
        h = _stir_end(_stir_end(h, r.b_hi, r.b_lo), r.a_hi, r.a_lo)
        port = np.uint64(r.b_port)
    h = stir(h, port | np.uint64(r.protocol) << np.uint64(16))
    h = stir(h, np.uint64(m.id) << np.uint64(17) | np.uint64(m.qtype + 1))
    return finish(stir(h, m.name_hash[0] if m.names > 0 else np.uint64(0)))


@helper
def _stir_end(h, hi, lo):
    return stir(stir(h, hi), lo)


@helper
def _alias_key(a, t, name):
    return finish(stir(_stir_end(t.seed, a.client_hi, a.client_lo), a.message.name_hash[name]))


@helper
def decide_answers(a, t, now_ns, may_ask):
    """Find the service of each address and alias of the message that was read: NOTHING, APPLY, ASK or LARGE.

    ASK when expressions have to be asked about a name and `may_ask`; else they are taken to say nothing.
    """
    m = a.message
    for name in range(m.names):
        a.choice_service[name] = _UNDECIDED
        a.name_service[name] = _UNDECIDED
    a.owners = 0
    a.applied = 0
    found = NOTHING
    for i in range(m.addresses):
        status = _choose(a, t, np.int64(m.address_owner[i]), now_ns, may_ask)
        if status == LARGE or status == ASK:
            return status
        found = max(found, status)
    for i in range(m.aliases):
        if a.owners < _MAX_OWNERS and _is_last(m, np.int64(m.alias_target[i])):
            status = _choose(a, t, np.int64(m.alias_target[i]), now_ns, may_ask)
            if status == LARGE or status == ASK:
                return status
            found = max(found, status)
    return found


@helper
def _is_last(m, name):
    """Whether a name is no alias of another in this message: the addresses of it may come in a message of its own."""
    is_last = True
    for i in range(m.aliases):
        is_last = is_last and m.alias_owner[i] != name
    return is_last


@helper
def _choose(a, t, owner, now_ns, may_ask):
    """Decide for the addresses of a name: by the first service in file order among the names that lead to it.

    Of several with that service, the one nearest to the question counts.
    """
    m = a.message
    if a.choice_service[owner] != _UNDECIDED:
        return APPLY if a.choice_service[owner] >= 0 else NOTHING
    a.owners += 1
    if a.owners > _MAX_OWNERS:
        return LARGE
    count, ttl_s = _walk_back(a, owner)
    service = np.int64(-1)
    by = np.int64(_BY_ALIAS)
    name_id = np.int64(-1)
    for i in range(count):
        name = np.int64(a.chain[i])
        if m.asked[name]:
            at = find_recent(a.aliases, _alias_key(a, t, name), now_ns)
            if at >= 0:
                known = table_at(a.aliases.entries, a.aliases.entries_count, ENTRY)[at]
                service = np.int64(known.service)
                name_id = np.int64(known.value)
    for i in range(count):
        name = np.int64(a.chain[count - 1 - i])
        if a.name_service[name] == _UNDECIDED:
            found, _ = decide_name(t, m.text, np.int64(m.name_start[name]), np.int64(m.name_bytes[name]), may_ask)
            if found == UNKNOWN:
                a.unknown = name
                return ASK
            a.name_service[name] = np.int32(found)
        if a.name_service[name] >= 0 and (service < 0 or a.name_service[name] < service):
            service = np.int64(a.name_service[name])
            by = name
    a.choice_service[owner] = np.int32(service)
    a.choice_name[owner] = np.int32(by)
    a.choice_id[owner] = name_id
    a.choice_ttl_s[owner] = ttl_s
    return APPLY if service >= 0 else NOTHING


@helper
def _walk_back(a, owner):
    """Put the names that lead to a name into `chain`, itself first; their number, and the smallest TTL on the way."""
    m = a.message
    a.chain[0] = np.int32(owner)
    count = 1
    ttl_s = np.int64((1 << 31) - 1)
    looked = 0
    while looked < count:
        name = a.chain[looked]
        looked += 1
        if m.asked[name]:
            continue
        for i in range(m.aliases):
            if m.alias_target[i] != name:
                continue
            is_new = True
            for j in range(count):
                if a.chain[j] == m.alias_owner[i]:
                    is_new = False
            if is_new:
                a.chain[count] = m.alias_owner[i]
                count += 1
                for j in range(i, m.aliases):  # the same alias may stand there twice
                    if m.alias_target[j] == name and m.alias_owner[j] == m.alias_owner[i]:
                        ttl_s = min(ttl_s, m.alias_ttl_s[j])
    return count, ttl_s


@helper
def apply_answers(a, t, tables, budget, now_ns):
    """Write what `decide_answers` found; it is called again when it could not finish.

    Args:
        tables: AddressTables.
        budget: BUDGET of what others are told.

    Returns:
        False: the table of addresses has to grow first.
    """
    m = a.message
    while a.applied < m.addresses:
        owner = np.int64(m.address_owner[a.applied])
        if a.choice_service[owner] >= 0 and not _put_address(a, t, tables, owner, budget, now_ns):
            return False
        a.applied += 1
    for i in range(m.aliases):
        target = np.int64(m.alias_target[i])
        if a.choice_service[target] >= 0 and a.choice_name[target] != target and _is_last(m, target):
            ttl_ns = min(a.choice_ttl_s[target], m.alias_ttl_s[i]) * 1_000_000_000
            until_ns = a.ts_ns + max(ttl_ns, a.min_ttl_ns)
            entry = table_at(a.aliases.entries, a.aliases.entries_count, ENTRY)[
                put_recent(a.aliases, _alias_key(a, t, target), until_ns, a.ts_ns)
            ]
            entry.service = a.choice_service[target]
            entry.value = _name_id(a, t, target)
    return True


@helper
def _name_id(a, t, owner):
    """The number of the name that decided for another."""
    by = np.int64(a.choice_name[owner])
    if by == _BY_ALIAS:
        return a.choice_id[owner]
    m = a.message
    return number_name(t, m.name_hash[by], m.text, np.int64(m.name_start[by]), np.int64(m.name_bytes[by]))


@helper
def _put_address(a, t, tables, owner, budget, now_ns):
    m = a.message
    i = a.applied
    server_hi = m.address_hi[i]
    server_lo = m.address_lo[i]
    service = np.int64(a.choice_service[owner])
    name_id = np.int64(_name_id(a, t, owner))
    ttl_s = min(a.choice_ttl_s[owner], m.address_ttl_s[i])
    expires_ns = a.ts_ns + max(ttl_s * 1_000_000_000, a.min_ttl_ns)
    zero = np.uint64(0)
    if a.is_asked and not put_address(tables, zero, zero, server_hi, server_lo, service, name_id, expires_ns, a.ts_ns):
        return False
    tells = a.is_told != 0 and not says_nothing_new(
        tables, a.client_hi, a.client_lo, server_hi, server_lo, name_id, expires_ns, a.ts_ns
    )
    if not put_address(tables, a.client_hi, a.client_lo, server_hi, server_lo, service, name_id, expires_ns, a.ts_ns):
        return False
    a.matched_total += 1
    if tells and not may_spend(budget, now_ns, TELL_UNITS):
        a.budget_refused = 1
    elif tells and a.learned_total < a.learned_count:
        entry = table_at(a.learned, a.learned_count, LEARNED)[a.learned_total]
        entry.client_hi = a.client_hi
        entry.client_lo = a.client_lo
        entry.server_hi = server_hi
        entry.server_lo = server_lo
        entry.expires_ns = expires_ns
        entry.learnt_ns = a.ts_ns
        entry.name_id = name_id
        entry.is_asked = a.is_asked
        a.learned_total += 1
    return True


class AnswerTables:
    """Memory for what `take_message` and `apply_answers` keep.

    Attributes:
        record: one ANSWERS, for compiled code.
    """

    def __init__(self, min_ttl_ns: int, ask_units: int = 1) -> None:
        self.record = table(1, ANSWERS)
        a = self.record[0]
        a["ask_units"] = ask_units
        a["last_query_ns"] = -(1 << 62)
        a["min_ttl_ns"] = min_ttl_ns
        self.learned = table(LEARNED_MAX, LEARNED)
        a["learned"], a["learned_count"] = address_of(self.learned), len(self.learned)
        self._memory: list[Any] = [
            new_recent(a["queries"], QUERIES), new_recent(a["aliases"], ALIASES), new_recent(a["streams"], STREAMS),
        ]  # fmt: skip

    def unknown_name(self) -> bytes:
        """The name that expressions have to be asked about."""
        m = self.record[0]["message"]
        number = int(self.record[0]["unknown"])
        start = int(m["name_start"][number])
        text: bytes = m["text"][start : start + int(m["name_bytes"][number])].tobytes()
        return text

    def take_learned(self) -> list[tuple[int, ...]]:
        """Empty the log, whose entries are as LEARNED says."""
        a = self.record[0]
        if not a["learned_total"]:
            return []
        taken: list[tuple[int, ...]] = self.learned[: int(a["learned_total"])].tolist()
        a["learned_total"] = 0
        return taken
