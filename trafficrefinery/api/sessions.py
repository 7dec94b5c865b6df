"""What a session feature may use: the flows of one client and service in an interval, and sketches over a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.errors import FeatureError, did_you_mean
from trafficrefinery.jit.lazy import Late

from . import Struct, float64
from . import session_kernels as kernels
from .outputs import MomentsOutput
from .session_kernels import Pooled

if TYPE_CHECKING:
    import polars as pl
else:
    pl = Late("polars")

__all__ = [
    "APPLICATION", "GROUPS", "NETWORK", "TRANSPORT", "Flow", "Flows", "Pooled", "Series", "SessionFeature",
    "States", "histogram_add", "histogram_quantile", "merge", "over",
]  # fmt: skip

NETWORK, TRANSPORT, APPLICATION = "network", "transport", "application"
GROUPS = (NETWORK, TRANSPORT, APPLICATION)
"""The feature groups of Bronzino et al. (POMACS 3(3), 2019)."""

Floats = NDArray[np.float64]
Column = Any
"""An array with an element for each session. Any: outputs are declared with the types of their elements."""
_FULL = 65_000  # a bin of a sketch over a session counts no further


class Flow:
    """One flow of a session in an interval, for plain classes: `flow["VideoSegments.segments"]`."""

    def __init__(self, flows: Flows, row: int) -> None:
        self._flows, self._row = flows, row
        self.tcp = bool(flows.tcp[row])

    def __getitem__(self, name: str) -> Any:
        """A figure as a float, NaN when it is null; a list as a list of floats."""
        value = self._flows.at(name, self._row)
        if isinstance(value, pl.Series):
            return [float(item) for item in value]
        return float("nan") if value is None else float(value)


class Flows:
    """The flows of all sessions of a service in one interval: a row each, those of a session side by side.

    Args:
        columns: what the feature classes gave of all flows, as `Class.field`.
        rows: which of them, in this order.
        tcp: of each row.
        session: number of its session, of each row; ascending from 0, none left out.
        age_s: of each session, from its start to the end of the interval.

    Attributes:
        count: sessions.
    """

    def __init__(
        self, columns: Mapping[str, pl.Series], rows: NDArray[np.intp], tcp: NDArray[np.bool_],
        session: NDArray[np.intp], age_s: Floats, interval_s: float,
    ) -> None:  # fmt: skip
        self._columns, self._rows = columns, rows
        self._made: dict[str, Floats] = {}
        self.tcp, self.session, self.age_s, self.interval_s = tcp, session, age_s, interval_s
        self.count = len(age_s)
        self.starts = np.flatnonzero(np.diff(session, prepend=-1))

    def _column(self, name: str) -> pl.Series:
        try:
            return self._columns[name]
        except KeyError:
            owner = name.partition(".")[0]
            known = any(one.startswith(f"{owner}.") for one in self._columns)
            hint = (
                did_you_mean(name, self._columns) if known else f"; name {owner} in `needs`, if there is such a class"
            )
            raise FeatureError("session features", f'no feature class that is collected gives "{name}"{hint}') from None

    def series(self, name: str) -> pl.Series:
        """A column as it stands in records."""
        return self._column(name).gather(self._rows.astype(np.uint32))

    def at(self, name: str, row: int) -> Any:
        """A column in one row, as it stands in records."""
        return self._column(name)[int(self._rows[row])]

    def __getitem__(self, name: str) -> Floats:
        """A figure of each row; NaN where it is null."""
        if name not in self._made:
            self._made[name] = self._gathered(self._column(name))
        return self._made[name]

    def _gathered(self, column: pl.Series) -> Floats:
        if column.dtype != pl.Float64 or not column.null_count():
            return column.to_numpy().take(self._rows).astype(np.float64, copy=False)
        array = column.rechunk().to_arrow()
        valid_bits, values = (
            np.frombuffer(buffer, kind) for buffer, kind in zip(array.buffers(), ("u1", "f8"), strict=True)
        )
        made = np.empty(len(self._rows))
        kernels.gather(values, valid_bits, array.offset, self._rows, made)
        return made

    def sum(self, values: NDArray[Any]) -> Column:
        """Of each session; NaN counts as nothing."""
        made = np.empty(self.count)
        kernels.sums(np.ascontiguousarray(values, np.float64), self.starts, made)
        return made

    def low(self, values: Floats) -> Column:
        """The least of each session; NaN when all are."""
        return self._extremes(values, 1.0)

    def high(self, values: Floats) -> Column:
        """The greatest of each session; NaN when all are."""
        return self._extremes(values, -1.0)

    def _extremes(self, values: Floats, sign: float) -> Column:
        made = np.empty(self.count)
        kernels.extremes(np.ascontiguousarray(values, np.float64), sign, self.starts, made)
        return made

    def pooled(self, n: Floats, columns: str) -> Pooled:
        """The series of a session's flows as one.

        Args:
            n: length of the series of each row.
            columns: its mean, deviation (ddof 0), minimum and maximum, with `*` for these: `"PacketTimes.iat_s_*_up"`.
        """
        figures = [self[columns.replace("*", figure)] for figure in MomentsOutput._fields]
        made = np.full((5, self.count), np.nan)
        given = (np.ascontiguousarray(values, np.float64) for values in (n, *figures))
        kernels.pool(Pooled._make(given), self.starts, made)
        return Pooled._make(made)

    def lists(self, name: str) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
        """All elements of a list column: their values, rows, and positions in their list."""
        lists = self._column(name).to_arrow()  # of large lists
        ends = lists.offsets.to_numpy()
        starts = ends[self._rows]
        lengths = np.where(
            lists.is_valid().to_numpy(zero_copy_only=False)[self._rows], ends[self._rows + 1] - starts, 0
        )
        rows = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        elements = lists.values.to_numpy(zero_copy_only=False)
        values = elements.take(starts[rows] + positions).astype(np.float64, copy=False)
        return values, rows, positions


class SessionFeature(Struct):
    """Base of session features. Annotations declare what one session keeps in memory, as of a `FeatureClass`.

    A class is written in one of two ways. Plain: `add_flow` is called for each flow of the interval, by flow_id, then
    `collect_features`, then `clear`. For all sessions at once: `collect_sessions`, where `state` has an array for each
    field and the output is a NamedTuple of arrays. A NaN in the output means "not observed", and becomes null.

    Attributes:
        group: network, transport or application.
        needs: the feature classes of flows that must be collected; without one of them all outputs are null.
    """

    _described_by: ClassVar[frozenset[str]] = frozenset({"group", "needs"})
    group: ClassVar[str] = NETWORK
    needs: ClassVar[tuple[str, ...]] = ()

    def add_flow(self, flow: Flow) -> None:
        """Called for each flow of the session that had packets in the interval."""
        raise NotImplementedError

    def collect_features(self, interval_s: float) -> Any:
        """Called at the end of an interval in which the session had packets; returns a NamedTuple."""
        raise NotImplementedError

    collect_sessions: ClassVar[Any] = None
    """`(state, flows) -> NamedTuple`, a static method."""


class States:
    """The states of many sessions: a field is an array with an element, or a row, for each; nested ones have fields.

    Parameters of the class are attributes too.
    """

    def __init__(self, records: NDArray[Any], cls: type | None = None) -> None:
        object.__setattr__(self, "_records", records)
        object.__setattr__(self, "_class", cls)

    def __getattr__(self, name: str) -> Any:
        if name not in (self._records.dtype.names or ()):
            return getattr(self._class, name)
        values = self._records[name]
        return values if values.dtype.names is None else States(values)

    def __setattr__(self, name: str, values: Any) -> None:
        self._records[name] = values


def over(a: Column, b: Column) -> Column:
    """a / b; NaN where b is 0."""
    with np.errstate(all="ignore"):
        return np.where(b > 0, a / b, np.nan)


class Series(Struct):
    """Length, mean, deviation, minimum and maximum of a series that grows as long as the session."""

    n: float64
    mean: float64
    squares: float64  # of deviations from the mean
    low: float64
    high: float64


def merge(series: Any, more: Pooled) -> Pooled:
    """Add an interval's part to the `Series` of each session (Chan, Golub and LeVeque, 1979), and tell what it is."""
    n, some = series.n + more.n, more.n > 0
    first = series.n == 0
    share = np.divide(more.n, n, out=np.zeros_like(n), where=n > 0)
    away = np.where(some, more.mean - series.mean, 0.0)
    grown = np.where(some, more.n * more.std * more.std, 0.0) + away * away * series.n * share
    series.squares = series.squares + grown
    series.mean = series.mean + away * share
    series.low = np.where(some, np.where(first, more.low, np.fmin(series.low, more.low)), series.low)
    series.high = np.where(some, np.where(first, more.high, np.fmax(series.high, more.high)), series.high)
    series.n = n
    gone = np.where(n > 0, 0.0, np.nan)
    return Pooled(n, series.mean + gone, np.sqrt(over(series.squares, n)), series.low + gone, series.high + gone)


def histogram_add(histogram: Any, sessions: NDArray[np.intp], values: Floats) -> None:
    """`api.Histogram.add` of many sessions at once; a bin counts to 65,000."""
    kernels.add_to_bins(histogram.bins, histogram.n, sessions, values, _FULL)


def histogram_quantile(histogram: Any, quantiles: Sequence[float]) -> list[Column]:
    """`api.Histogram.quantile` of many sessions and quantiles at once."""
    n = histogram.n.astype(np.float64)
    found = []
    index = np.empty(len(n), np.int64)
    for q in quantiles:
        kernels.bins_at(histogram.bins, q * (n - 1), index)
        width = 2.0 ** np.maximum(index // 4 - 1, 0)
        middle = np.where(index < 8, index, (index % 4 + 4) * width + (width - 1) / 2)
        found.append(np.where(n > 0, middle, np.nan))
    return found
