"""From the records of flows to those of sessions, interval by interval."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.api import parameters, state_dtype
from trafficrefinery.api.sessions import TRANSPORT, Flows, SessionFeature
from trafficrefinery.config.model import MEDIA, PACKET
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import did_you_mean
from trafficrefinery.jit.lazy import Late
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.privacy import Anonymiser

from .boundaries import OpenSessions
from .columns import groups_of, session_schema
from .playing import MediaFlows, Playing, media_segments, running
from .registry import SessionRegistry, session_fields
from .running import run_feature

if TYPE_CHECKING:
    import polars as pl
else:
    pl = Late("polars")


class _Service:
    """One service: its open sessions, and what their features keep."""

    def __init__(self, name: str, plan: Plan, number: int, classes: list[type[SessionFeature]]) -> None:
        profile = plan.profiles[plan.service_profile[number]]
        self.name, self.interval_ns = name, profile.interval_ns
        collected = {cls.__name__ for cls in profile.classes}
        self.opened_by, needed = plan.config.sessions.opened_by, plan.config.sessions.opening_class
        self.has_sessions = not needed or needed in collected
        self.counts_packets = "PacketCounters" in collected
        self.classes = [cls for cls in classes if set(cls.needs) <= collected]
        self.open = OpenSessions(plan.config.sessions)
        self.media_bytes = next(
            (parameters(cls).get("MinBytes", 0) for cls in profile.classes if cls.__name__ == MEDIA), 0
        )
        self.ids: NDArray[Any] = np.zeros(0, "U16")
        self.states = {cls: np.zeros(0, state_dtype(cls)) for cls in self.classes}
        self.media_flows = MediaFlows(plan.config.services[number].filter.media_domains)
        self.playing = Playing(plan.config.sessions.start_gap_ns) if self.opened_by == MEDIA else None

    def reserve(self) -> None:
        """Have room for a state in every slot."""
        more = self.open.capacity - len(self.ids)
        if more:
            self.ids = np.concatenate((self.ids, np.zeros(more, "U16")))
            for cls, states in self.states.items():
                self.states[cls] = np.concatenate((states, np.zeros(more, states.dtype)))
            if self.playing is not None:
                self.playing.reserve(more)


def _check_opening(plan: Plan) -> None:
    """See that each feature class that is to open sessions has the output that is named, as a number."""
    cls_name, _, output = plan.config.sessions.opened_by.partition(".")
    for cls in {cls for profile in plan.profiles for cls in profile.classes if output and cls.__name__ == cls_name}:
        numbers = [field.name for field in output_fields(cls) if not field.size]
        if output not in numbers:
            hint = did_you_mean(output, numbers) or f"; there are {', '.join(numbers)}"
            raise plan.config.error("Sessions.OpenedBy", f'{cls_name} has no number "{output}"{hint}')


class SessionView:
    """Gives the session-intervals of batches of records, in the order of the batches.

    What a session is, `boundaries.OpenSessions` tells. Its id is 16 hexadecimal digits of SHA-256 over service, client
    address and the start of its first interval in ns; of keyed BLAKE2b where addresses are anonymised. Sessions take
    the same features from the same records, whoever made them.

    Raises:
        ConfigError: there is a key for anonymised addresses, but not one to be used; nothing that is collected has the
            output that is to open sessions.
        FeatureError: a session feature is wrong.
    """

    def __init__(self, plan: Plan) -> None:
        registry = SessionRegistry.of(plan)
        self.schema = session_schema(registry.fields())
        self._groups = groups_of(self.schema.names)
        _check_opening(plan)
        self._services = {
            service.name: _Service(service.name, plan, number, registry.classes)
            for number, service in enumerate(plan.config.services)
        }
        anonymiser = Anonymiser.of(plan.config.privacy.key_file, plan.config.file)
        self._key = None if anonymiser is None else anonymiser.derived_key("session_id")

    @property
    def services(self) -> list[str]:
        """The services that have sessions: those that collect what opens them."""
        return [service.name for service in self._services.values() if service.has_sessions]

    @property
    def started(self) -> dict[str, int]:
        """Service → sessions started."""
        return {service.name: service.open.started for service in self._services.values() if service.has_sessions}

    @property
    def counters(self) -> dict[str, int]:
        """Sessions started, ended, refused (beyond `MaxSessions`), and open now."""
        tables = [service.open for service in self._services.values()]
        return {
            "sessions_started": sum(table.started for table in tables),
            "sessions_ended": sum(table.ended for table in tables),
            "sessions_refused": sum(table.refused for table in tables),
            "sessions_open": sum(map(len, tables)),
        }

    def add(self, batch: Batch) -> pa.Table | None:
        """The session-intervals of the next batch, ordered by `session_id`; None when there are none."""
        service = self._services[batch.service]
        if not service.has_sessions or not len(batch.flow["flow_id"]):
            return None
        begins_ns = round(batch.flow["ts_start"][0] * 1e3) * 1_000_000
        columns = batch.columns()
        encoded = batch.flow["client_ip"].to_arrow().dictionary_encode()
        client = encoded.indices.to_numpy().astype(np.intp)
        may = service.media_flows.of(batch.flow)
        media, start_ns = _media(service, columns, may, client, batch.flow["flow_start"].to_numpy(), begins_ns)
        interval = begins_ns, begins_ns + service.interval_ns
        clients = encoded.dictionary.to_pylist()
        slots, new = service.open.assign(interval, clients, media, start_ns)
        if not (slots >= 0).any():
            return None
        service.reserve()
        self._begin(service, slots[new], [clients[index] for index in np.flatnonzero(new)], begins_ns)
        with_session = np.flatnonzero(slots >= 0)
        order = with_session[np.argsort(service.ids[slots[with_session]], kind="stable")]
        playing = _plays(service, columns, may, client, (interval, slots, order))
        return self._table(service, batch, columns, (order, slots, clients, client), playing)

    def finish(self) -> pa.Table | None:
        """Nothing is left: a row is of one interval."""
        return None

    def _begin(self, service: _Service, slots: NDArray[np.int64], clients: list[str], first_ns: int) -> None:
        for slot, client in zip(slots.tolist(), clients, strict=True):
            service.ids[slot] = self._digest(f"{service.name}\n{client}\n{first_ns}".encode())
        for states in service.states.values():
            states[slots] = np.zeros((), states.dtype)
        if service.playing is not None:
            service.playing.clear(slots)

    def _digest(self, text: bytes) -> str:
        if self._key is None:
            return hashlib.sha256(text).hexdigest()[:16]
        return hashlib.blake2b(text, digest_size=8, key=self._key).hexdigest()

    def _table(
        self, service: _Service, batch: Batch, columns: Mapping[str, pl.Series], which: Any, playing: pa.Array
    ) -> pa.Table:
        order, all_slots, clients, client = which
        position = np.full(len(clients), -1)
        position[order] = np.arange(len(order))
        session = position[client]
        rows = np.flatnonzero(session >= 0)
        rows = rows[np.argsort(session[rows], kind="stable")]
        tcp = (batch.flow["protocol"] == "tcp").to_numpy()[rows]
        ts_start, ts_end = batch.flow["ts_start"][0], batch.flow["ts_end"][0]
        slots = all_slots[order]
        started_s = service.open.start_ns[slots] / 1e9
        flows = Flows(
            columns, rows, tcp, session[rows],
            np.maximum(ts_end - started_s, 0.0), service.interval_ns / 1e9,
        )  # fmt: skip
        has_tcp = flows.sum(tcp) > 0
        made = self._features(service, flows, slots, has_tcp)
        groups = {cls.group for cls in service.classes}
        n = len(slots)
        made |= {
            "ts_start": pa.repeat(ts_start, n), "ts_end": pa.repeat(ts_end, n),
            "service": pa.repeat(service.name, n), "client_ip": pa.array([clients[index] for index in order.tolist()]),
            "session_id": pa.array(service.ids[slots].tolist()), "session_start": pa.array(started_s),
            "playing": playing,
            **{f"{group}_observed": pa.array(has_tcp if group == TRANSPORT and group in groups
                                             else np.full(n, group in groups)) for group in self._groups},
        }  # fmt: skip
        nulls = {field.name: pa.nulls(n, field.type) for field in self.schema if field.name not in made}
        return pa.table([(made | nulls)[field.name] for field in self.schema], schema=self.schema)

    def _features(
        self, service: _Service, flows: Flows, slots: NDArray[np.int64], has_tcp: NDArray[np.bool_]
    ) -> dict[str, pa.Array]:
        made: dict[str, pa.Array] = {}
        for cls in service.classes:
            states = _taken(service.states[cls], slots)
            figures = run_feature(cls, states, flows)
            _octets(service.states[cls])[slots] = _octets(states)
            for field, seen in zip(session_fields(cls), figures, strict=True):
                if cls.group == TRANSPORT and not has_tcp.all():
                    made[field.name] = _column(np.where(has_tcp, seen, np.nan), field.kind)
                else:
                    made[field.name] = _column(seen, field.kind)
        return made


def _plays(
    service: _Service, columns: Mapping[str, pl.Series], may: NDArray[np.bool_], client: NDArray[np.intp],
    which: tuple[tuple[int, int], NDArray[np.int64], NDArray[np.intp]],
) -> pa.Array:  # fmt: skip
    """Whether the sessions of clients `order` play in an interval; null where media do not open sessions."""
    interval, slots, order = which
    if service.playing is None:
        return pa.nulls(len(order), pa.bool_())
    of_flows = media_segments(columns, may, service.interval_ns, counts_packets=service.counts_packets)
    segments = np.zeros(len(slots), np.int64)
    np.add.at(segments, client, of_flows)
    return pa.array(service.playing.add(interval, slots[order], segments[order]))


def _media(
    service: _Service, columns: Mapping[str, pl.Series], may: NDArray[np.bool_], client: NDArray[np.intp],
    flow_start_s: NDArray[np.float64], begins_ns: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:  # fmt: skip
    """Which clients have media, or what else opens a session, in an interval; and when one of theirs starts with it.

    That is when the flow started that has the media, or the interval, if the flow is older than one more interval.
    """
    if service.opened_by == MEDIA:
        media = _has_media(service, columns) & may
    elif service.opened_by == PACKET:
        media = np.ones(len(client), np.bool_)
    else:
        media = columns[service.opened_by].fill_null(0).to_numpy() > 0
    clients = int(client.max()) + 1
    flow_ns = np.round(flow_start_s * 1e9).astype(np.int64)
    flow_ns = np.where(flow_ns >= begins_ns - service.interval_ns, flow_ns, begins_ns)
    start_ns = np.full(clients, begins_ns + service.interval_ns)
    np.minimum.at(start_ns, client[media], flow_ns[media])
    has_media = np.zeros(clients, np.bool_)
    has_media[client[media]] = True
    return has_media, start_ns


def _has_media(service: _Service, columns: Mapping[str, pl.Series]) -> NDArray[np.bool_]:
    media: NDArray[np.bool_] = columns[f"{MEDIA}.segments"].to_numpy() > 0
    return media | running(columns, service.media_bytes) if service.counts_packets else media


def _column(values: NDArray[np.float64], kind: str) -> pa.Array:
    known = np.isfinite(values)
    if known.all():
        return pa.array(values.astype(np.int64) if kind == "int" else values)
    if kind == "int":
        return pa.array(np.where(known, values, 0).astype(np.int64), mask=~known)
    return pa.array(values, mask=~known)


def _octets(states: NDArray[Any]) -> NDArray[np.uint8]:
    """States as rows of bytes, which are copied several times as fast as records."""
    return states.view(np.uint8).reshape(len(states), states.dtype.itemsize)


def _taken(states: NDArray[Any], slots: NDArray[np.int64]) -> NDArray[Any]:
    """A copy of some states."""
    if not states.dtype.itemsize:  # of a class that keeps nothing
        return states[slots]
    return _octets(states).take(slots, axis=0).view(states.dtype)[:, 0]
