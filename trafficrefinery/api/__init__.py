"""All that a feature class may use.

A feature class declares its state by annotations and has `add_packet`, `collect_features` and, where all zeros is
not the right start of an interval, `clear`:

    class PacketCounters(FeatureClass):
        MinBytes = parameter(0, at_least=0, at_most=65_535, unit="bytes")   # the configuration may set it
        packets_up: uint64                              # a number
        rtt: Moments                                    # a nested record with methods of its own
        sizes: Array[int] = array(uint32, 16)           # a fixed-size array; a size may name a parameter

The class runs in two ways, and both give the same results: as it stands, on a NumPy record (debuggers work), and
compiled (see `trafficrefinery.engine.feature_classes`). For that the arithmetic is the same in both: a field that is
read is an int64 or a float64, whatever it is stored as; a value that is stored is cast (integers wrap around); dividing
by zero gives infinity or NaN.

A class attribute that is a number, boolean or string is a parameter too, without `parameter(...)`: its type is checked,
and that it fits into 64 bits. Whatever its value, the state of a flow is bounded (`parameters.MAX_STATE_BYTES`), and an
index outside its array ends the method for that packet, is counted and reported (see `fuse`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, Self, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from .outputs import MomentsOutput, named, png, up_to, when
from .parameters import MAX_STATE_BYTES, Parameter, parameter, size_text

__all__ = [
    "ACK", "CWR", "DOWN", "ECE", "ENDED_EVICTED", "ENDED_FIN", "ENDED_IDLE", "ENDED_RST", "FIN", "FIRST_FRAGMENT",
    "LATER_FRAGMENT", "NOT_FRAGMENTED", "NOT_QUIC", "OPEN", "PSH", "RAW_LIMIT", "RST",
    "SYN", "TCP", "UDP", "UP", "URG", "Array", "FeatureClass", "Histogram", "Moments", "MomentsOutput", "Packet",
    "Struct", "array", "float32", "float64", "inf", "int8", "int16", "int32", "int64", "isfinite", "isnan", "named",
    "nan", "parameter", "png", "seq_diff", "seq_lt", "sqrt", "uint8", "uint16", "uint32", "uint64", "up_to", "when",
]  # fmt: skip

uint8 = Annotated[int, np.dtype("u1")]
uint16 = Annotated[int, np.dtype("u2")]
uint32 = Annotated[int, np.dtype("u4")]
uint64 = Annotated[int, np.dtype("u8")]
int8 = Annotated[int, np.dtype("i1")]
int16 = Annotated[int, np.dtype("i2")]
int32 = Annotated[int, np.dtype("i4")]
int64 = Annotated[int, np.dtype("i8")]
float32 = Annotated[float, np.dtype("f4")]
float64 = Annotated[float, np.dtype("f8")]

UP, DOWN = 0, 1
"""`Packet.direction`: from the client, to the client."""
TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
NOT_FRAGMENTED, FIRST_FRAGMENT, LATER_FRAGMENT = 0, 1, 2
NOT_QUIC = 1
"""`Packet.record_bytes` of a datagram that cannot be QUIC."""
OPEN, ENDED_FIN, ENDED_RST, ENDED_IDLE, ENDED_EVICTED = range(5)
"""How a flow ended, see `FeatureClass.end_flow`."""
RAW_LIMIT = 256
"""Bytes from the IP header on that `Packet.raw` can see at most."""

nan, inf = float("nan"), float("inf")

T = TypeVar("T")


class Array(Generic[T]):
    """A fixed-size array of numbers or records inside a state; see `array`. Here: the view that plain Python gets."""

    def __init__(self, values: np.ndarray, element: Any) -> None:
        self._values, self._element = values, element

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        value = self._values[index]
        return Array(value, self._element) if isinstance(index, slice) else _plain(value, self._element)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = np.asarray(value).astype(self._values.dtype)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


class ArrayField(NamedTuple):
    """Declaration of an array field: element (a number annotation or a Struct) and size (a number or parameter)."""

    element: Any
    size: int | str


def array(element: Any, size: int | str) -> Any:
    """Declare an array field of `size` elements: a number, a parameter's name, or a product ("Packets*Bytes")."""
    return ArrayField(element, size)


def _plain(value: Any, kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind.bind(value)
    return np.float64(value) if isinstance(value, np.floating) else np.int64(value)


class Struct:
    """A record in a state: annotated fields and methods; nests in feature classes and other records."""

    _declared: ClassVar[dict[str, Any]] = {}
    _parameters: ClassVar[dict[str, Parameter]] = {}
    _described_by: ClassVar[frozenset[str]] = frozenset()
    """Class attributes that say what a class is; they are no parameters."""
    _record: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        arrays = {name: value for name, value in vars(cls).items() if isinstance(value, ArrayField)}
        for name in arrays:
            delattr(cls, name)
        cls._declared = {**cls._declared, **arrays}
        ranges = {name: value for name, value in vars(cls).items() if isinstance(value, Parameter)}
        for name, declared in ranges.items():
            setattr(cls, name, declared.default)
        cls._parameters = {**cls._parameters, **ranges}

    @classmethod
    def bind(cls, record: Any) -> Self:
        """This class on a NumPy record of dtype `state_dtype(cls)`; nothing is copied."""
        made = object.__new__(cls)
        object.__setattr__(made, "_record", record)
        return made

    def __getattr__(self, name: str) -> Any:
        kind = state_fields(type(self)).get(name)
        if kind is None:
            raise AttributeError(f"{type(self).__name__} has no field or parameter {name!r}")
        value = self._record[name]
        return Array(value, kind.element) if isinstance(kind, ArrayField) else _plain(value, kind)

    def __setattr__(self, name: str, value: Any) -> None:
        kind = state_fields(type(self)).get(name)
        if kind is None:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}; declare it with an annotation")
        with np.errstate(all="ignore"):
            self._record[name] = np.asarray(value).astype(self._record.dtype[name])

    def clear(self) -> None:
        """Set every field to zero."""
        for name in self._record.dtype.names:
            self._record[name] = np.zeros((), self._record.dtype[name])


class FeatureClass(Struct):
    """Base of feature classes. Methods are called once a packet, once an interval, and after each interval."""

    def add_packet(self, pkt: Packet) -> None:
        """Called for each packet of the flow, in the order of capture."""
        raise NotImplementedError

    def collect_features(self, interval_s: float) -> Any:
        """Called at the end of an interval in which the flow had packets; returns a NamedTuple."""
        raise NotImplementedError

    def end_flow(self, how: int) -> None:
        """Called once, when the flow ends.

        A TCP flow ends with the FIN of each side that was seen, or a RST: the method is called behind `add_packet` of
        that packet, and more packets may follow. When the connection goes on after a RST, which was forged or has
        refused a SYN, the method is not called again. A flow also ends when it is idle or the flow cache is full.

        Args:
            how: ENDED_FIN, ENDED_RST, ENDED_IDLE, ENDED_EVICTED; or OPEN, where the trace, or the next connection of
                the same addresses and ports, came before any of these.
        """


class Packet(Struct):
    """A packet as `add_packet` sees it. All fields are read as int64."""

    ts_ns: int64  # capture time, nanoseconds since the epoch
    interval_start_ns: int64  # start of the interval that the packet counts in
    ip_bytes: uint32  # IP total length
    payload_bytes: uint32  # bytes after the TCP or UDP header; of a later fragment: all after the IP header
    wire_bytes: uint32  # frame on the wire
    captured_bytes: uint32  # frame in the trace
    seq: uint32  # TCP; 0 for other protocols, as all TCP fields
    ack: uint32
    tsval: uint32  # TCP timestamps option
    tsecr: uint32
    sack_left: uint32  # first SACK block, when sack_blocks > 0
    sack_right: uint32
    src_port: uint16
    dst_port: uint16
    window: uint16  # as in the header, not scaled
    mss: uint16  # 0: no such option
    raw_bytes: uint16  # bytes that raw() can see, from the IP header on
    # The longest TLS record that begins in a TCP payload of at most 1,024 bytes; all of a UDP payload as large, or
    # NOT_QUIC where it does not have QUIC's fixed bit (RFC 9000, section 17); 0: not known.
    record_bytes: uint16
    direction: uint8  # UP or DOWN
    protocol: uint8  # TCP or UDP
    ip_version: uint8  # 4 or 6
    ttl: uint8  # or hop limit
    dscp: uint8
    ecn: uint8
    tcp_flags: uint8
    tcp_header_bytes: uint8
    window_scale: int8  # shift count; -1: no such option
    has_timestamps: uint8
    sack_blocks: uint8
    fragment: uint8  # NOT_FRAGMENTED, FIRST_FRAGMENT or LATER_FRAGMENT

    def raw(self, index: int) -> int:
        """Byte `index` of the packet counted from its IP header; 0 outside `raw_bytes`.

        Where addresses are anonymised, they are 0 too, as are checksums, IP options and DNS contents.
        """
        if 0 <= index < self.raw_bytes:
            return np.int64(self._buffer[self._record["raw_offset"] + index])  # type: ignore[return-value]
        return np.int64(0)  # type: ignore[return-value]

    @classmethod
    def bind_raw(cls, record: Any, buffer: np.ndarray) -> Packet:
        """A packet whose raw bytes lie in `buffer` at the record's `raw_offset`."""
        made = cls.bind(record)
        object.__setattr__(made, "_buffer", buffer)
        return made


# What features may call. Plain functions here; `fuse` compiles them.


def seq_diff(a: int, b: int) -> int:
    """Signed distance a - b of two 32-bit sequence numbers, modulo 2^32 (RFC 1982, RFC 9293 section 3.4)."""
    return ((a - b + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def seq_lt(a: int, b: int) -> bool:
    """Whether sequence number a lies before b, modulo 2^32."""
    return ((a - b) & 0xFFFFFFFF) >= 0x80000000


def sqrt(x: float) -> float:
    """Square root; NaN for negative numbers."""
    return np.sqrt(np.float64(x))  # type: ignore[no-any-return]


def isnan(x: float) -> bool:
    """Whether x is NaN."""
    return bool(x != x)


def isfinite(x: float) -> bool:
    """Whether x is neither NaN nor infinite."""
    return bool(x - x == 0.0)


class Moments(Struct):
    """Count, mean, standard deviation (ddof 0), minimum and maximum of a series, in 40 bytes.

    Mean and variance by the recurrence of Welford (Technometrics 4(3), 1962).
    """

    n: uint64
    mean: float64
    m2: float64  # sum of squared deviations from the mean
    low: float64
    high: float64

    def add(self, x: float) -> None:
        n = self.n + 1
        delta = x - self.mean
        mean = self.mean + delta / n
        self.m2 = self.m2 + delta * (x - mean)
        self.mean = mean
        if n == 1 or x < self.low:
            self.low = x
        if n == 1 or x > self.high:
            self.high = x
        self.n = n

    def average(self) -> float:
        """Mean; NaN of an empty series, as the other figures."""
        return self.mean if self.n > 0 else nan

    def std(self) -> float:
        return sqrt(self.m2 / self.n) if self.n > 0 else nan

    def minimum(self) -> float:
        return self.low if self.n > 0 else nan

    def maximum(self) -> float:
        return self.high if self.n > 0 else nan

    def output(self, unit: float) -> MomentsOutput:
        """What a record says of the series, in multiples of `unit`: 1e9 is a second, for a series of nanoseconds."""
        return MomentsOutput(
            mean=self.average() / unit, std=self.std() / unit, min=self.minimum() / unit, max=self.maximum() / unit
        )


class Histogram(Struct):
    """Counts of non-negative integers in logarithmic bins, four an octave: quantiles within 12.5 %, in 264 bytes.

    The sketch of HDR histograms: the bin is the position of the highest set bit and the two bits below it.
    Values from 2^33 on share the last bins.
    """

    n: uint64
    bins: Array[int] = array(uint16, 128)

    def add(self, x: int) -> None:
        value = int(max(x, 0))
        shift = 0
        while value >= 8:
            value = value >> 1
            shift = shift + 1
        index = min(shift * 4 + value, 127)
        if self.bins[index] < 65535:
            self.bins[index] = self.bins[index] + 1
            self.n = self.n + 1

    def quantile(self, q: float) -> float:
        """The middle of the bin in which the q-quantile lies; NaN of an empty series."""
        if self.n == 0:
            return nan
        rank = q * (self.n - 1)
        seen = 0
        index = 0
        while index < 127 and seen + self.bins[index] <= rank:
            seen = seen + self.bins[index]
            index = index + 1
        if index < 8:
            return float(index)
        width = 1 << (index // 4 - 1)
        return (index % 4 + 4) * width + (width - 1) / 2


# Layouts, for the parts of the system that run feature classes.


def parameters(cls: type[Struct]) -> dict[str, Any]:
    """The parameters of a class with their values: class attributes that are numbers, booleans or strings."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base in (object, Struct, FeatureClass):
            continue
        found |= {
            name: value
            for name, value in vars(base).items()
            if not name.startswith("_")
            and name not in cls._described_by
            and isinstance(value, bool | int | float | str)
        }
    return found


def declared_parameters(cls: type[Struct]) -> dict[str, Parameter]:
    """The parameters of a class with what values they take; default is the value that this class has."""
    known = cls._parameters
    return {
        name: known[name]._replace(default=value) if name in known else Parameter(value)
        for name, value in parameters(cls).items()
    }


_fields: dict[type, dict[str, Any]] = {}


def state_fields(cls: type[Struct]) -> dict[str, Any]:
    """Field name → NumPy dtype, Struct class, or ArrayField with a resolved size; in order of declaration."""
    if cls not in _fields:
        _fields[cls] = dict(_resolve(cls))
    return _fields[cls]


def _resolve(cls: type[Struct]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(cls, include_extras=True, localns={"Self": cls})
    values = parameters(cls)
    for name, hint in hints.items():
        if name.startswith("_") or get_origin(hint) is ClassVar or name in values:
            continue
        declared = cls._declared.get(name)
        if declared is None:
            yield name, _kind(cls, name, hint)
            continue
        yield name, ArrayField(_kind(cls, name, declared.element), resolve_size(cls, declared.size))


def resolve_size(cls: type, size: int | str) -> int:
    """A size as a number: `16`, a parameter's name, or a product such as `"Packets * Bytes"`."""
    values = parameters(cls)
    product = 1
    for factor in str(size).split("*"):
        word = factor.strip()
        value = int(word) if word.isdecimal() else values.get(word)
        if not isinstance(value, int):
            raise TypeError(f"{cls.__name__}: the size {size!r} is not a whole number and not a parameter that is one")
        if value < 0:
            raise TypeError(f"{cls.__name__}: the size {size!r} is {value}; the least is 0")
        product *= value
    return product


def _kind(cls: type, name: str, hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Struct):
        return hint
    for extra in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(extra, np.dtype):
            return extra
    raise TypeError(
        f"{cls.__name__}.{name}: {inspect.formatannotation(hint)} cannot be kept in a state; "
        "use uint8 … uint64, int8 … int64, float32, float64, a Struct, or array(...)"
    )


_dtypes: dict[type, np.dtype] = {}


def state_dtype(cls: type[Struct]) -> np.dtype:
    """The state of a class as an aligned NumPy dtype, padded to whole 8 bytes: its itemsize is the state cost.

    Raises:
        TypeError: it cannot be laid out, or is larger than MAX_STATE_BYTES.
    """
    if cls not in _dtypes:
        members: list[tuple[Any, ...]] = []
        state_bytes = 0
        for name, kind in state_fields(cls).items():
            element = _element_dtype(kind.element if isinstance(kind, ArrayField) else kind)
            count = int(kind.size) if isinstance(kind, ArrayField) else 1
            state_bytes += max(element.itemsize, 1) * count
            if state_bytes > MAX_STATE_BYTES:
                raise TypeError(
                    f"{cls.__name__}: with {name}, the state of one flow takes at least {size_text(state_bytes)}; "
                    f"the most is {size_text(MAX_STATE_BYTES)}"
                )
            members.append((name, element, (count,)) if isinstance(kind, ArrayField) else (name, element))
        _dtypes[cls] = np.dtype(members, align=True)
    return _dtypes[cls]


def _element_dtype(kind: Any) -> np.dtype:
    return kind if isinstance(kind, np.dtype) else state_dtype(kind)
