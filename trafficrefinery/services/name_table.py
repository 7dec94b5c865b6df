"""Names to services and to numbers in compiled code: domains, parts of labels, and what expressions were asked before.

A name is ASCII in lower case, without a final dot, as bytes. Suffixes at label boundaries are looked up in a hash
table; parts of labels, and the texts that expressions require, are found by one pass of an automaton (Aho and Corasick,
Communications of the ACM 18(6), 1975). Only a name in which an expression may be found has to be asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import address_of, borrowed, helper, kernel, prepare, table_at
from trafficrefinery.jit.memory import table, table_of

BEYOND = 1 << 30
"""Behind every service."""
UNKNOWN = -2
"""Of a name that expressions have to be asked about."""
MAX_NAME_BYTES = 1020  # 255 bytes, each of them escaped

SUFFIX = np.dtype([("hash", "u8"), ("service", "i8")])
STATE = np.dtype([("part", "i4"), ("expression", "i4")])
"""What the automaton has found in a state: the first service with such a part, and the first with an expression that
requires such a text."""
ASKED = np.dtype([("hash", "u8"), ("service", "i4"), ("used", "i4")])
NUMBERED = np.dtype([("hash", "u8"), ("number", "i8")])
PLACE = np.dtype([("start", "u4"), ("bytes", "u4")])
ASKED_WAYS = 4
_ASKED_SETS = 16_384

NAME_TABLES = np.dtype(
    [
        ("seed", "u8"),
        ("suffixes", "i8"), ("suffixes_count", "i8"), ("max_labels", "i8"),
        ("moves", "i8"), ("moves_count", "i8"), ("states", "i8"), ("states_count", "i8"), ("letters", "i8"),
        ("letter", "u1", (256,)),  # of a byte; 0: in no part and no text
        ("always", "i8"),  # first service with an expression that requires no text
        ("asked", "i8"), ("asked_count", "i8"), ("hand", "i8"),
        ("numbered", "i8"), ("numbered_count", "i8"),
        ("places", "i8"), ("places_count", "i8"), ("texts", "i8"), ("texts_count", "i8"),
        ("names", "i8"), ("names_bytes", "i8"), ("refused", "i8"),
    ],
    align=True,
)  # fmt: skip
"""All tables by address and length. They lie in memory of a `NameTables`."""

_U1, _I4 = np.dtype("u1"), np.dtype("i4")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINAL = np.uint64(0xD6E8FEB86659FD93)
_ONE, _29, _32 = np.uint64(1), np.uint64(29), np.uint64(32)


@helper
def stir(h, byte):
    """The hash of a text with one more byte in front. The seed is secret, so nobody can aim at a name."""
    h = (h ^ np.uint64(byte)) * _MULTIPLIER
    return h ^ (h >> _29)


@helper
def finish(h):
    """A hash as it is kept: never 0."""
    h ^= h >> _32
    h *= _FINAL
    return (h ^ (h >> _32)) | _ONE


@helper
def text_hash(seed, text, start, count):
    """The hash of `text[start : start + count]`."""
    h = seed
    for i in range(count):
        h = stir(h, text[start + count - 1 - i])
    return finish(h)


@helper
def find_suffix(t, hash_):
    """The place of a suffix's hash, or of the free entry where it would be."""
    mask = np.uint64(t.suffixes_count - 1)
    suffixes = table_at(t.suffixes, t.suffixes_count, SUFFIX)
    at = np.int64((hash_ >> _32) & mask)
    while suffixes[at].hash != 0 and suffixes[at].hash != hash_:
        at = np.int64(at + 1 if at + 1 < t.suffixes_count else 0)
    return at


@helper
def decide_name(t, text, start, count, may_ask):
    """The service of a name: its number, -1 for none, or UNKNOWN; and the name's hash.

    Unless somebody `may_ask` the expressions, they are taken to say nothing of a name that is new.
    """
    best = np.int64(BEYOND)
    labels = 0
    suffixes = table_at(t.suffixes, t.suffixes_count, SUFFIX)
    h = t.seed
    for i in range(count):
        at = start + count - 1 - i
        h = stir(h, text[at])
        if labels < t.max_labels and (at == start or text[at - 1] == 46):
            labels += 1
            entry = suffixes[find_suffix(t, finish(h))]
            if entry.hash != 0:
                best = min(best, entry.service)
    hash_ = finish(h)
    if count == 0:  # the root
        return -1, hash_
    candidate = np.int64(t.always)
    if t.states_count > 1:
        moves = table_at(t.moves, t.moves_count, _I4)
        states = table_at(t.states, t.states_count, STATE)
        state = np.int64(0)
        for i in range(start, start + count):
            state = np.int64(moves[state * t.letters + np.int64(t.letter[text[i]])])
            best = min(best, np.int64(states[state].part))
            candidate = min(candidate, np.int64(states[state].expression))
    if candidate < best:
        known = recall(t, hash_)
        if known != UNKNOWN:
            best = min(best, known)
        elif may_ask:
            return UNKNOWN, hash_
    return (best if best < BEYOND else -1), hash_


@helper
def recall(t, hash_):
    """What the expressions said of a name: a service, BEYOND, or UNKNOWN."""
    asked = table_at(t.asked, t.asked_count, ASKED)
    first = np.int64((hash_ >> _32) % np.uint64(t.asked_count // ASKED_WAYS)) * ASKED_WAYS
    for way in range(first, first + ASKED_WAYS):
        if asked[way].hash == hash_:
            asked[way].used = 1
            return np.int64(asked[way].service)
    return UNKNOWN


@helper
def remember(t, hash_, service):
    """Keep what the expressions said; one that was not looked up again gives way first, so a flood replaces itself."""
    asked = table_at(t.asked, t.asked_count, ASKED)
    first = np.int64((hash_ >> _32) % np.uint64(t.asked_count // ASKED_WAYS)) * ASKED_WAYS
    victim = np.int64(-1)
    for way in range(first, first + ASKED_WAYS):
        if asked[way].hash == 0 or asked[way].hash == hash_:
            victim = np.int64(way)
            break
        if asked[way].used == 0 and victim < 0:
            victim = np.int64(way)
    if victim < 0:
        for way in range(first, first + ASKED_WAYS):
            asked[way].used = 0
        t.hand = (t.hand + 1) % ASKED_WAYS
        victim = first + t.hand
    asked[victim].hash = hash_
    asked[victim].service = np.int32(service)
    asked[victim].used = 0


@helper
def number_name(t, hash_, text, start, count):
    """The number of a name, which is given one when it is new; -1 when there are too many."""
    numbered = table_at(t.numbered, t.numbered_count, NUMBERED)
    mask = np.uint64(t.numbered_count - 1)
    at = np.int64((hash_ >> _32) & mask)
    while numbered[at].hash != 0:
        if numbered[at].hash == hash_:
            return np.int64(numbered[at].number)
        at = np.int64(at + 1 if at + 1 < t.numbered_count else 0)
    if t.names >= t.places_count or t.names_bytes + count > t.texts_count:
        t.refused += 1
        return -1
    texts = table_at(t.texts, t.texts_count, _U1)
    for i in range(count):
        texts[t.names_bytes + i] = text[start + i]
    place = table_at(t.places, t.places_count, PLACE)[t.names]
    place.start = np.uint32(t.names_bytes)
    place.bytes = np.uint32(count)
    numbered[at].hash = hash_
    numbered[at].number = t.names
    t.names_bytes += count
    t.names += 1
    return np.int64(t.names - 1)


@kernel
def _decide(tables: Any, text: NDArray[np.uint8]) -> int:
    service, _ = decide_name(borrowed(tables)[0], text, 0, len(text), True)
    return int(service)


@kernel
def _remember(tables: Any, text: NDArray[np.uint8], service: int) -> None:
    t = borrowed(tables)[0]
    remember(t, text_hash(t.seed, text, 0, len(text)), service)


@kernel
def _number(tables: Any, text: NDArray[np.uint8]) -> int:
    t = borrowed(tables)[0]
    return int(number_name(t, text_hash(t.seed, text, 0, len(text)), text, 0, len(text)))


@kernel
def _fill_suffixes(tables: Any, text: NDArray[np.uint8], ends: NDArray[np.int64], services: NDArray[np.int64]) -> None:
    """Enter domains, one behind the other in `text`, in the order of their services: the first one counts."""
    t = borrowed(tables)[0]
    suffixes = table_at(t.suffixes, t.suffixes_count, SUFFIX)
    start = 0
    for i in range(len(ends)):
        hash_ = text_hash(t.seed, text, start, ends[i] - start)
        entry = suffixes[find_suffix(t, hash_)]
        if entry.hash == 0:
            entry.hash = hash_
            entry.service = services[i]
        labels = 1
        for at in range(start, ends[i]):
            labels += text[at] == 46
        t.max_labels = max(t.max_labels, labels)
        start = ends[i]


@kernel
def _fill_automaton(tables: Any, queue: NDArray[np.int64], fails: NDArray[np.int64]) -> None:
    """Complete a trie to an automaton: a move for each letter in each state, and what shorter suffixes find."""
    t = borrowed(tables)[0]
    moves = table_at(t.moves, t.moves_count, _I4)
    states = table_at(t.states, t.states_count, STATE)
    head, tail = 0, 1  # the queue begins with the root
    while head < tail:
        state = queue[head]
        head += 1
        fail = fails[state]
        states[state].part = min(states[state].part, states[fail].part)
        states[state].expression = min(states[state].expression, states[fail].expression)
        for letter in range(t.letters):
            target = moves[state * t.letters + letter]
            shorter = np.int64(moves[fail * t.letters + letter]) if state > 0 else np.int64(0)
            if target > 0:
                fails[target] = shorter
                queue[tail] = target
                tail += 1
            else:
                moves[state * t.letters + letter] = shorter


class NameTables:
    """The tables of one configuration.

    Args:
        domains: with their services, in file order; they match a name and those below it.
        parts: texts with their services, in file order; they match inside a name.
        texts: of expressions, with their services: those that a name has in which they are found; may be empty.
        max_names: that are given numbers.
        seed: of the hashes. Results do not depend on it.

    Attributes:
        record: one NAME_TABLES, for compiled code.
    """

    def __init__(
        self,
        domains: Sequence[tuple[str, int]] = (),
        parts: Sequence[tuple[str, int]] = (),
        texts: Sequence[tuple[str, int]] = (),
        max_names: int = 1,
        seed: int = 0,
    ) -> None:
        self.record = table(1, NAME_TABLES)
        self._arrays: dict[str, Any] = {}
        self.record["seed"] = seed
        self.record["always"] = min((service for text, service in texts if not text), default=BEYOND)
        self._place("suffixes", table(_power_of_two(2 * len(domains) + 1), SUFFIX))
        self._place("asked", table(ASKED_WAYS * (_ASKED_SETS if texts else 1), ASKED))
        self._place("numbered", table(_power_of_two(2 * max_names), NUMBERED))
        self._place("places", table(max_names, PLACE))
        self._place("texts", table(max(64 * max_names, 2 * MAX_NAME_BYTES), np.uint8))
        joined = "".join(domain for domain, _ in domains).encode()
        ends = np.cumsum([len(domain) for domain, _ in domains], dtype=np.int64)
        services = np.array([service for _, service in domains], np.int64)
        if len(domains):
            _fill_suffixes(self.record, _bytes(joined), ends, services)
        self._build_automaton(parts, [(text, service) for text, service in texts if text])

    def _place(self, name: str, array: Any) -> None:
        self._arrays[name] = array
        self.record[name], self.record[f"{name}_count"] = address_of(array), len(array)

    def _build_automaton(self, parts: Sequence[tuple[str, int]], texts: Sequence[tuple[str, int]]) -> None:
        letters = {
            byte: 1 + i for i, byte in enumerate(sorted({*"".join(text for text, _ in (*parts, *texts)).encode()}))
        }
        for byte, letter in letters.items():
            self.record["letter"][0, byte] = letter
        trie: list[dict[int, int]] = [{}]
        found = [[BEYOND, BEYOND]]
        for kind, entries in enumerate((parts, texts)):
            for text, service in entries:
                state = 0
                for byte in text.encode():
                    if letters[byte] not in trie[state]:
                        trie[state][letters[byte]] = len(trie)
                        trie.append({})
                        found.append([BEYOND, BEYOND])
                    state = trie[state][letters[byte]]
                found[state][kind] = min(found[state][kind], service)
        moves = np.zeros((len(trie), 1 + len(letters)), np.int32)
        for state, targets in enumerate(trie):
            moves[state, list(targets)] = list(targets.values())
        self.record["letters"] = moves.shape[1]
        self._place("moves", table_of(moves.reshape(-1), np.int32))
        self._place("states", table_of([tuple(pair) for pair in found], STATE))
        queue = np.zeros(len(trie) + 1, np.int64)
        _fill_automaton(self.record, queue, np.zeros(len(trie), np.int64))

    def decide(self, name: bytes) -> int:
        """The service of a name, -1 for none, or UNKNOWN: see `remember`."""
        return int(_decide(self.record, _bytes(name)))

    def remember(self, name: bytes, service: int) -> None:
        """Keep what expressions say of a name: the first service, or BEYOND for none."""
        _remember(self.record, _bytes(name), service)

    def number(self, name: bytes) -> int:
        """The number of a name, from 0 on in the order in which they came; -1 when there are too many."""
        return int(_number(self.record, _bytes(name)))

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first names would wait for."""
        prepare(_decide, self.record, _bytes(b""))
        prepare(_remember, self.record, _bytes(b""), 0)
        prepare(_number, self.record, _bytes(b""))

    @property
    def names_count(self) -> int:
        """Names that have numbers."""
        return int(self.record["names"][0])

    @property
    def refused_total(self) -> int:
        """Requests for a number that were refused."""
        return int(self.record["refused"][0])

    def names_from(self, first: int) -> list[str]:
        """The names that have numbers from `first` on."""
        texts = self._arrays["texts"]
        places = self._arrays["places"][first : int(self.record["names"][0])].tolist()
        return [texts[start : start + count].tobytes().decode("ascii") for start, count in places]


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 1).bit_length()


def _bytes(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(text), np.uint8)
