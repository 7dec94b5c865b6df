"""Durations, sizes and rates: strings with a unit in the configuration, whole nanoseconds, bytes and bits a second in
the program."""

from __future__ import annotations

import re
from decimal import Decimal

from .text import quoted

NS_PER_UNIT = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
BYTES_PER_UNIT = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
BPS_PER_UNIT = {"bit": 1, **{f"{prefix}bit": 1000**power for power, prefix in enumerate("KMGT", start=1)}}
MAX_DURATION_NS = 10**6 * NS_PER_UNIT["h"]
"""A time of this century plus any duration fits into an int64."""
MAX_SIZE_BYTES = 2**62


def _pattern(units: dict[str, int]) -> str:
    return rf"^[0-9]{{1,19}}(\.[0-9]{{1,9}})?({'|'.join(units)})$"


DURATION_PATTERN = _pattern(NS_PER_UNIT)
SIZE_PATTERN = _pattern(BYTES_PER_UNIT)
RATE_PATTERN = _pattern(BPS_PER_UNIT)
SHARE_PATTERN = r"^[0-9]{1,3}(\.[0-9]{1,6})?%$"
SIZE_OR_SHARE_PATTERN = f"{SIZE_PATTERN}|{SHARE_PATTERN}"


def parse_duration_ns(value: object) -> int:
    """Nanoseconds of `"10s"`, `"1.5ms"`; ValueError with what is allowed otherwise."""
    return _parse(value, NS_PER_UNIT, ("duration", "10s"), MAX_DURATION_NS)


def parse_size_bytes(value: object) -> int:
    """Bytes of `"256MiB"` (binary) or `"4KB"` (1,000 bytes each); ValueError with what is allowed otherwise."""
    return _parse(value, BYTES_PER_UNIT, ("size", "4KiB"), MAX_SIZE_BYTES)


def parse_rate_bps(value: object) -> int:
    """Bits a second of `"10Gbit"`; ValueError with what is allowed otherwise."""
    return _parse(value, BPS_PER_UNIT, ("rate a second", "10Gbit"), MAX_SIZE_BYTES)


class Share(float):
    """A share of something that is there, from 0 to 1."""


def parse_size_or_share(value: object) -> int | Share:
    """Bytes of `"256MiB"`, the share of `"40%"`; ValueError with what is allowed otherwise."""
    if isinstance(value, Share):
        return value
    if not isinstance(value, str) or not value.endswith("%"):
        return parse_size_bytes(value)
    if not re.fullmatch(SHARE_PATTERN, value) or not 0 < float(value[:-1]) <= 100:
        raise ValueError(f"{quoted(value)} is not a share; write a number above 0, and at most 100, with %")
    return Share(float(value[:-1]) / 100)


def format_size_or_share(value: int | Share) -> str:
    """The shortest exact form, such as `"256MiB"` or `"40%"`."""
    return f"{value * 100:.9g}%" if isinstance(value, Share) else format_size(value)


def _parse(value: object, units: dict[str, int], kind: tuple[str, str], limit: int) -> int:
    noun, example = kind
    allowed = f"one of the units {', '.join(units)}, such as {quoted(example)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write a string with {allowed}")
    if not isinstance(value, str):
        raise ValueError(f"must be a {noun}: a string with {allowed}; not {quoted(value)}")
    if re.fullmatch(r"[0-9.]+", value):
        raise ValueError(f"{quoted(value)} has no unit; add {allowed}")
    if not re.fullmatch(_pattern(units), value):
        raise ValueError(f"{quoted(value)} is not a {noun}; write a number with {allowed}")
    unit = value.lstrip("0123456789.")
    amount = Decimal(value.removesuffix(unit)) * units[unit]
    if amount > limit:
        raise ValueError(f"{quoted(value)} is too much; at most {_format(limit, units)} can be set")
    if amount % 1:
        raise ValueError(f"{quoted(value)} is not a whole number of {next(iter(units))}")
    return int(amount)


def format_duration(duration_ns: int) -> str:
    """The shortest exact form, such as `"10s"`."""
    return _format(duration_ns, NS_PER_UNIT, zero="0s")


def format_size(size_bytes: int) -> str:
    """The shortest exact form, such as `"256MiB"`."""
    return _format(size_bytes, BYTES_PER_UNIT, zero="0B")


def format_rate(rate_bps: int) -> str:
    """The shortest exact form, such as `"10Gbit"`."""
    return _format(rate_bps, BPS_PER_UNIT, zero="0bit")


def _format(amount: int, units: dict[str, int], zero: str = "0") -> str:
    if amount == 0:
        return zero
    exact = (f"{amount // factor}{unit}" for unit, factor in units.items() if amount % factor == 0)
    return min(exact, key=len)
