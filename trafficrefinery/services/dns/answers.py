"""What DNS tells, in compiled code: queries are remembered, answers to them teach which service an address belongs to.

Of an answer counts what follows from its question by aliases; other records in it may be anybody's.

An answer that nobody asked for teaches nothing where queries are seen: from its client, or to its resolver. Where none
are (a tap that sees one direction), it counts for the client that it was sent to, and for nobody else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import address_of, helper, table_at
from trafficrefinery.jit.memory import table
from trafficrefinery.services.addresses import put_address, says_nothing_new
from trafficrefinery.services.budget import may_spend
from trafficrefinery.services.name_table import UNKNOWN, decide_name, finish, number_name, stir

from .compiled_messages import MAX_NAMES, MESSAGE, NOT_DNS, READ, TOO_LARGE, read_answers, read_header, read_questions
from .early import EARLY, keep_message, kept_at, new_early, take_early
from .recent import ENTRY, RECENT, find_recent, new_recent, put_recent

IGNORED, NOTHING, QUERY, MALFORMED, UNASKED, APPLY, ASK, LARGE, PIECE = range(9)
"""What a packet is worth: it holds no message; one that says nothing of services; a query; one that is unreadable; that
nobody asked for; addresses of services, see `apply_answers`; names that expressions have to be asked about first;
a message that `messages` has to read; a piece of a stream that has to be put together."""

QUERY_NS = 60_000_000_000
"""An answer may take so long."""
ONE_SIDED_NS = 3_600_000_000_000
"""Without a query of a client and to a resolver for so long, a tap is taken to see answers only between them."""
STREAM_NS = 600_000_000_000
QUERIES, ENDS, ALIASES, STREAMS, LEARNED_MAX = 1 << 16, 1 << 15, 1 << 14, 1 << 12, 1 << 10
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
        ("ends", RECENT),  # addresses that queries came from, or went to
        ("early", EARLY),
        ("retry", "i8"),  # place of a message in `early` that follows from the one at hand; -1: none
        ("retried", "i8"),  # messages that were read again since the start
        ("two_sided_until_ns", "i8"),  # queries were seen with their answers of late: no answer counts without one
        ("min_ttl_ns", "i8"),
        ("ask_units", "i8"),  # what it costs of the budget to ask expressions about a name
        ("is_told", "i8"),  # whether what is learnt goes to the log
        # the response at hand
        ("status", "i8"), ("is_mine", "i8"), ("budget_refused", "i8"), ("is_asked", "i8"), ("ts_ns", "i8"),
        ("client_hi", "u8"), ("client_lo", "u8"), ("owners", "i8"), ("applied", "i8"),
        ("unknown", "i8"),  # the name that expressions have to be asked about
        ("stream_start", "i8"),  # of a stream that Python begins to put together; -1: it goes on
        ("reached", "u1", (MAX_NAMES,)),  # names that follow from the question
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
    a.retry = -1
    if not read_header(buffer, start, end, m):
        return MALFORMED
    status, at = read_questions(buffer, start, end, t.seed, m)
    if status == NOT_DNS:
        return MALFORMED
    if m.is_response == 0:
        if r.dst_port == 53 and m.questions > 0:
            put_recent(a.ends, _end_key(t, r.a_hi, r.a_lo), now_ns + ONE_SIDED_NS, now_ns)
            put_recent(a.ends, _end_key(t, r.b_hi, r.b_lo), now_ns + ONE_SIDED_NS, now_ns)
            if status == READ:
                key = _query_key(t, m, r, r.source_is_a != 0)
                put_recent(a.queries, key, now_ns + QUERY_NS, now_ns)
                early = take_early(a.early, key, now_ns)
                if early >= 0:
                    kept_at(a.early, early).is_asked = 1
                    a.two_sided_until_ns = now_ns + ONE_SIDED_NS
                    return retake_message(a, t, early, now_ns, True)
        return QUERY
    if r.src_port != 53:
        return IGNORED
    a.client_hi = r.b_hi if r.source_is_a else r.a_hi
    a.client_lo = r.b_lo if r.source_is_a else r.a_lo
    a.ts_ns = r.ts_ns
    key = _query_key(t, m, r, r.source_is_a == 0)
    is_asked = status == READ and find_recent(a.queries, key, now_ns) >= 0
    a.is_asked = 1 if is_asked else 0
    if is_asked:
        a.two_sided_until_ns = now_ns + ONE_SIDED_NS
    else:
        if status == READ and m.questions > 0:
            _keep(a, key, buffer, start, end, now_ns)
        if now_ns < a.two_sided_until_ns:
            return UNASKED
        if _has_asked(a, t, r.a_hi, r.a_lo, now_ns) or _has_asked(a, t, r.b_hi, r.b_lo, now_ns):
            return UNASKED
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
    status = decide_answers(a, t, now_ns, True)
    if status == NOTHING and m.questions > 0 and m.addresses + m.aliases > 0:
        _keep(a, _alias_key(a, t, 0), buffer, start, end, now_ns)  # its name may yet be the target of an alias
    return status


@helper
def _keep(a, key, buffer, start, end, now_ns):
    """Keep the response at hand, which may follow from something that is still to come."""
    at = keep_message(a.early, key, buffer, start, end, now_ns)
    if at >= 0:
        kept = kept_at(a.early, at)
        kept.client_hi = a.client_hi
        kept.client_lo = a.client_lo
        kept.ts_ns = a.ts_ns
        kept.is_asked = a.is_asked


@helper
def retake_message(a, t, at, now_ns, may_ask):
    """Read the response at that place in `early` again; what it is worth now: NOTHING, APPLY or ASK."""
    kept = kept_at(a.early, at)
    m = a.message
    a.retried += 1
    a.client_hi = kept.client_hi
    a.client_lo = kept.client_lo
    a.ts_ns = kept.ts_ns
    a.is_asked = kept.is_asked
    count = np.int64(kept.bytes)
    if not read_header(kept.payload, 0, count, m):
        return NOTHING
    status, behind = read_questions(kept.payload, 0, count, t.seed, m)
    if status != READ or behind < 0 or read_answers(kept.payload, 0, count, behind, t.seed, m) != READ:
        return NOTHING
    status = decide_answers(a, t, now_ns, may_ask)
    return NOTHING if status == LARGE else status


@helper
def _query_key(t, m, r, client_is_a):
    """The hash of what an answer repeats of its query: both ends, id, first type, and names."""
    h = t.seed
    if client_is_a:
        h = _stir_end(_stir_end(h, r.a_hi, r.a_lo), r.b_hi, r.b_lo)
        port = np.uint64(r.a_port)
    else:
        h = _stir_end(_stir_end(h, r.b_hi, r.b_lo), r.a_hi, r.a_lo)
        port = np.uint64(r.b_port)
    h = stir(h, port | np.uint64(r.protocol) << np.uint64(16))
    h = stir(h, np.uint64(m.id) << np.uint64(17) | np.uint64(m.qtype + 1))
    for name in range(m.names):  # of all questions; an answer may not add one
        h = stir(h, m.name_hash[name])
    return finish(h)


@helper
def _end_key(t, hi, lo):
    return finish(_stir_end(t.seed, hi, lo))


@helper
def _has_asked(a, t, hi, lo, now_ns):
    """Whether queries from or to an address were seen of late."""
    return find_recent(a.ends, _end_key(t, hi, lo), now_ns) >= 0


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
    _reach(a)
    found = NOTHING
    for i in range(m.addresses):
        if not a.reached[m.address_owner[i]]:
            a.choice_service[m.address_owner[i]] = -1
            continue
        status = _choose(a, t, np.int64(m.address_owner[i]), now_ns, may_ask)
        if status == LARGE or status == ASK:
            return status
        found = max(found, status)
    for i in range(m.aliases):
        if not a.reached[m.alias_target[i]]:
            a.choice_service[m.alias_target[i]] = -1
        elif a.owners < _MAX_OWNERS and _is_last(m, np.int64(m.alias_target[i])):
            status = _choose(a, t, np.int64(m.alias_target[i]), now_ns, may_ask)
            if status == LARGE or status == ASK:
                return status
            found = max(found, status)
    return found


@helper
def _reach(a):
    """Mark the names that follow from the questions by aliases."""
    m = a.message
    for name in range(m.names):
        a.reached[name] = m.asked[name]
    for _ in range(m.aliases):  # the longest way; records may stand in any order
        is_done = True
        for i in range(m.aliases):
            if a.reached[m.alias_owner[i]] and not a.reached[m.alias_target[i]]:
                a.reached[m.alias_target[i]] = 1
                is_done = False
        if is_done:
            break


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
    """Put the names that lead from the question to a name into `chain`, itself first; their number, and the smallest
    TTL on the way."""
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
            if m.alias_target[i] != name or not a.reached[m.alias_owner[i]]:
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
        is_of_it = a.reached[m.alias_owner[i]] and a.choice_service[target] >= 0
        if is_of_it and a.choice_name[target] != target and _is_last(m, target):
            ttl_ns = min(a.choice_ttl_s[target], m.alias_ttl_s[i]) * 1_000_000_000
            until_ns = a.ts_ns + max(ttl_ns, a.min_ttl_ns)
            entry = table_at(a.aliases.entries, a.aliases.entries_count, ENTRY)[
                put_recent(a.aliases, _alias_key(a, t, target), until_ns, a.ts_ns)
            ]
            entry.service = a.choice_service[target]
            entry.value = _name_id(a, t, target)
            early = take_early(a.early, _alias_key(a, t, target), now_ns)
            a.retry = early if early >= 0 else a.retry
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

    def __init__(self, min_ttl_ns: int, ask_units: int = 1, grace_ns: int = 0) -> None:
        self.record = table(1, ANSWERS)
        a = self.record[0]
        a["ask_units"] = ask_units
        a["min_ttl_ns"] = min_ttl_ns
        a["early"]["grace_ns"] = grace_ns
        self.learned = table(LEARNED_MAX, LEARNED)
        a["learned"], a["learned_count"] = address_of(self.learned), len(self.learned)
        self._memory: list[Any] = [
            new_recent(a["queries"], QUERIES), new_recent(a["aliases"], ALIASES), new_recent(a["streams"], STREAMS),
            new_recent(a["ends"], ENDS), new_early(a["early"]),
        ]  # fmt: skip
        kept = self.record
        self._recent = [kept["queries"], kept["ends"], kept["aliases"], kept["streams"], kept["early"]["keys"]]

    def unknown_name(self) -> bytes:
        """The name that expressions have to be asked about."""
        m = self.record[0]["message"]
        number = int(self.record[0]["unknown"])
        start = int(m["name_start"][number])
        text: bytes = m["text"][start : start + int(m["name_bytes"][number])].tobytes()
        return text

    @property
    def forgotten_total(self) -> int:
        """Entries that gave way to newer ones although they held."""
        return sum(recent["replaced"].item() for recent in self._recent)

    def take_learned(self) -> list[tuple[int, ...]]:
        """Empty the log, whose entries are as LEARNED says."""
        a = self.record[0]
        if not a["learned_total"]:
            return []
        taken: list[tuple[int, ...]] = self.learned[: int(a["learned_total"])].tolist()
        a["learned_total"] = 0
        return taken
