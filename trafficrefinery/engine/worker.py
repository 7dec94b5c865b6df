"""A worker: one partition of the flow cache, the loop that fills it, and the answers to what the loop asks.

The worker hands what it makes to a `Receiver`: rows of features, the summary of each interval, and how far in time
it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import RAW_LIMIT
from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.jit import address_of, bound, prepare, records
from trafficrefinery.jit.memory import Populator, Recycled, Reserved, table, table_of, whole_pages
from trafficrefinery.packets.parser import PACKET, REASONS
from trafficrefinery.packets.tunnels import tunnel_table
from trafficrefinery.services import FlowNames, LearnedAnswer, PrefixTable, ServiceFilter, ServiceMap, Told
from trafficrefinery.services.budget import set_budget
from trafficrefinery.services.dns.answers import APPLY, ASK, IGNORED, LARGE, PIECE
from trafficrefinery.services.dns.messages import DnsStreams
from trafficrefinery.services.names import Status

from . import flows, fragments, kernel, partition, trace_clock
from .counters import COUNTERS, counts_beside
from .feature_classes.fuse import fuse
from .feature_classes.prefetch_plan import touched_lines
from .flow_cache import CHUNK, FIRST_PACKETS, HEADER, NAME_DONE, SlotTable, copy_index, new_index, new_seed
from .naming import dns, handshakes
from .naming.hellos import count_hello, read_asked, spend_more
from .plan import Plan
from .trace_clock import HeldFrame, Judgement, StepBack, Times, TraceClock

_POOL_ENTRIES = 1 << 14
_POOL_CHUNKS = 16  # whose memory is given back one by one
_FLOWS_A_RELEASE = _POOL_ENTRIES // _POOL_CHUNKS  # to touch pages again costs more than all else of a quiet interval
_FIRST_FLOWS = 1 << 13  # that the index has room for at first
_GROWTH = 4
_ROWS = 1 << 14
_ROW_BYTES = 3_000_000  # of a buffer of rows: for larger ones huge pages are asked, whose first touch takes ms
_SWEEP_SLICE = 2048  # headers looked at between two blocks: half a millisecond's work when all are collected
_NEVER = 1 << 62
_BEFORE_ALL_NS = -(1 << 63)
_SHIFTED_UNTIL_NS = 1 << 61  # of the loop's time, which goes on where the clock is set back: it must not overflow
_STEPS_KEPT = 100
_DOUBTS = 16  # of frames that came late after all, in one interval
BURST_S = 0.25
"""What Python does for packets may be ahead of its rate by that of so much packet time."""
_ASKED_MAX = 32
"""Questions to expressions about one DNS message, which has 16 names at most."""


class Receiver(Protocol):
    """Where a worker's results go."""

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:
        """Rows of a profile; `names` are all names known so far, by `name_id`. The array is the receiver's."""

    def summary(self, worker: int, start_ns: int, summary: IntervalCounts) -> None:
        """What happened in the interval that starts at `start_ns`."""

    def done_until(self, worker: int, until_ns: int) -> None:
        """No further row of an interval that ends at `until_ns` or before will come."""

    def restart(self, worker: int) -> None:
        """The clock was set back: rows of intervals that were done before may come again."""


class IntervalCounts(NamedTuple):
    """Counts of one interval of one worker."""

    counts: list[int]  # by `counters.COUNTERS`
    losses: dict[str, int]  # of the capture
    flows_active: int
    service_packets: list[int]
    service_bytes: list[int]

    @property
    def counters(self) -> dict[str, int]:
        """The counts and losses by name."""
        return dict(zip(COUNTERS, self.counts, strict=True)) | self.losses


class Settings(NamedTuple):
    """What differs between the ways to run a worker; the records must not depend on it, but for `origin`.

    Args:
        number: of this worker; results are handed over with it.
        partitions: that a trace is shared out to, of which this worker takes the one with its number; 1 when all
            packets that come are its own.
        names_per_second, quic_attempts_per_second: of packet time: about how many segments of hellos are put together,
            with names that expressions are asked about, each of which takes as much and more; and how many QUIC
            datagrams are decrypted. None for no limit: records must not depend on the time that a replay takes.
        dns_units_per_second: of packet time, for what compiled code does not do of DNS, see `budget.UNIT_US`; None for
            no limit.
        reads_dns: False when another process learns the names, see `Worker.learn`.
        keeps_trail: True to know the service of each frame afterwards, see `Worker.trail`.
        judges_time: False when the capturing machine's own clock makes the times; else see `trace_clock`.
        asks_all_names: True when Python is to see each name, see `Worker.on_server_name`.
        max_short_flows: rows of flows with one or two packets in an interval, for each service and interval; None: all.
    """

    number: int = 0
    partitions: int = 1
    first_packet_origin: bool = False
    names_per_second: int | None = None
    quic_attempts_per_second: int | None = None
    dns_units_per_second: int | None = None
    reads_dns: bool = True
    judges_time: bool = True
    keeps_trail: bool = False
    asks_all_names: bool = False
    max_short_flows: int | None = None


def _rooms_for_rows(dtype: np.dtype) -> Recycled:
    """Room for rows: for what one batch can make at least, and as much again."""
    count = min(_ROWS, max(_ROW_BYTES // dtype.itemsize, 2 * partition.ROW_MARGIN))
    return Recycled(whole_pages(count, dtype), dtype)


def _service_ports(further: Sequence[int]) -> NDArray[np.bool_]:
    """For each port, whether a server's: the well-known ones (RFC 6335, section 6) and some more."""
    ports = np.arange(1 << 16) < 1024
    ports[list(further)] = True
    return ports


class Worker:
    """See the module's description. `process` takes blocks; `finish` closes everything that is open.

    Attributes:
        on_server_name: called with the HEADER of a flow and the name in its hello, when Python has read it; and with
            whether that is the public name of an ECH configuration, which hides the flow's own.
        wall_ns: tells the time of day, where packets are captured: one that is more than an hour from it is `bad_time`.
        is_set_back: called when packets and the time of day are far behind; whether `set_back` is to follow.

    Args:
        losses: called when an interval ends: counts to be added to those of its summary, such as packets lost before.
    """

    def __init__(
        self, plan: Plan, receiver: Receiver, settings: Settings = Settings(),  # noqa: B008
        losses: Callable[[], dict[str, int]] = dict,
    ) -> None:  # fmt: skip
        self._plan, self._receiver, self._settings, self._losses = plan, receiver, settings, losses
        config = plan.config
        filters = [
            ServiceFilter(s.name, s.filter.domains, s.filter.domains_regex, s.filter.prefixes) for s in config.services
        ]
        self.services = ServiceMap(
            filters,
            min_ttl_ns=config.service_map.min_ttl_ns,
            grace_ns=config.grace_ns,
            max_addresses=config.service_map.max_addresses,
        )
        self.flow_names = FlowNames(wanted=config.service_map.sources)
        self.dns_streams = DnsStreams()
        self.on_server_name: Callable[..., object] = lambda *_, **__: None
        self.wall_ns: Callable[[], int] | None = None
        self.is_set_back: Callable[[], bool] = lambda: False
        self._step = fuse(plan.profiles, blanked=config.privacy.key_file is not None)
        max_flows = config.flow_cache.max_flows
        self._lengths_ns = {config.interval_ns, *(profile.interval_ns for profile in plan.profiles)}
        self._partition = self._new_partition()
        self._p = self._partition[0]
        self._control = self._p["control"]  # as an attribute: to find it again takes as long as to read a field
        self._sweep_slice = bound(flows.sweep, self._partition, _SWEEP_SLICE)
        slots = self._p["slots"]
        self._headers = SlotTable(max_flows, HEADER, slots)
        self._index = new_index(min(max_flows, _FIRST_FLOWS))
        self._profiles = table(len(plan.profiles), partition.PROFILE)
        self._states = [
            SlotTable(max_flows, profile.state_dtype(), self._profiles[number]["slots"])
            for number, profile in enumerate(plan.profiles)
        ]
        self._rooms = [_rooms_for_rows(profile.row_dtype()) for profile in plan.profiles]
        self._rows = [rooms.take() for rooms in self._rooms]
        self._services = table(len(config.services), partition.SERVICE)
        self._services["profile"], self._services["short_starts"] = plan.service_profile, -_NEVER
        self._fill_profiles()
        self._place_tables()
        self._last = np.zeros(len(COUNTERS), np.int64)
        self._last_packets = np.zeros(len(config.services), np.int64)
        self._last_bytes = np.zeros(len(config.services), np.int64)
        self._clock = TraceClock(self._behind_ns(), tunnel_table(plan.config.decapsulate))
        self._begun = False  # a time was believed
        self._times = Times()
        self._frames = 0
        self._trail = np.zeros(0, np.int16)
        self._doubts_left = _DOUBTS
        self._interval_start: int | None = None
        self._closing_ns: int | None = None  # what the sweep under way closes
        self._kept_flows = 0  # flows that had begun, and kept no packets, when memory was given back
        self._populator = Populator([table.populate_ahead for table in (self._headers, *self._states)])
        self._flows_populated_for = CHUNK // 4

    def _new_partition(self) -> Any:
        """The record that the loop works on, with all settings; tables are placed in it afterwards."""
        config = self._plan.config
        made = table(1, partition.PARTITION)
        p = made[0]
        p["seed"] = new_seed()
        control = p["control"]
        control["watermark_ns"] = control["next_boundary_ns"] = _BEFORE_ALL_NS
        control["next_close_ns"] = _NEVER
        control["max_behind_ns"] = self._behind_ns()
        control["grace_ns"] = config.grace_ns
        control["idle_ns"] = config.flow_cache.idle_timeout_ns
        control["partitions"] = self._settings.partitions
        control["my_partition"] = self._settings.number if self._settings.partitions > 1 else 0
        p["tunnels"][:] = tunnel_table(config.decapsulate)
        control["mac"] = int((config.direction.mac or "0").replace(":", ""), 16)
        control["direction_mode"] = {"service": partition.BY_SERVICE, "host": partition.BY_HOST_MAC}.get(
            config.direction.mode, partition.BY_ROUTER_MAC
        )
        filters = [service.filter for service in config.services]
        if any(f.has_names for f in filters):
            control["read_dns"] = partition.DNS_RESPONSES if self._settings.reads_dns else partition.NO_DNS
            control["read_names"] = config.service_map.sources
        p["naming"]["asks_all"] = self._settings.asks_all_names
        p["naming"]["ask_units"] = self.services.matcher.work_units
        set_budget(p["naming"]["names"], self._settings.names_per_second, handshakes.NAME_UNITS, BURST_S)
        set_budget(p["naming"]["quic"], self._settings.quic_attempts_per_second, handshakes.DATAGRAM_UNITS, BURST_S)
        control["refuse_at_cap"] = config.flow_cache.at_capacity == "refuse"
        control["short_rows_limit"] = -1 if self._settings.max_short_flows is None else self._settings.max_short_flows
        control["pool_free"] = _POOL_ENTRIES
        control["pool_raw_bytes"] = RAW_LIMIT if self._step.reads_raw else 0
        set_budget(p["dns_budget"], self._settings.dns_units_per_second, 1, BURST_S)
        return made

    def _fill_profiles(self) -> None:
        for number, profile in enumerate(self._plan.profiles):
            record, states, rows = self._profiles[number], self._states[number].memory.array, self._rows[number]
            record["interval_ns"] = profile.interval_ns
            for name, address in self._step.profiles[number]._asdict().items():
                record[name] = address
            record["state"], record["state_bytes"] = address_of(states), states.itemsize
            record["row"], record["row_bytes"] = address_of(rows), rows.itemsize
            record["row_limit"] = len(rows) - partition.ROW_MARGIN
            ahead = touched_lines(profile, self._step.profiles[number])
            count = min(max(map(len, ahead)), record["ahead"].shape[1])
            for direction, lines in enumerate(ahead):  # of equal length: an end that varies is a branch that fails
                record["ahead"][direction, :count] = [*lines, *lines[-1:] * count][:count]
            record["ahead_count"] = count

    def _place_tables(self) -> None:
        """Make the tables that are left, and write where all of them lie into the partition."""
        self._fragments = table(fragments.FRAGMENT_SETS * fragments.FRAGMENT_WAYS, fragments.FRAGMENT)
        self._event = table(whole_pages(1, PACKET), PACKET)
        self._batch = table(whole_pages(partition.RING, PACKET), PACKET)
        networks = PrefixTable([self._plan.config.direction.client_networks]).tables
        prefixes = self.services.prefixes.tables
        kept = _POOL_ENTRIES * FIRST_PACKETS
        self._kept = Reserved(kept, PACKET)
        self._kept_raw = Reserved(kept * int(self._control["pool_raw_bytes"]), np.dtype(np.uint8))
        self._answers = self.services.answers.record
        self._tables: dict[str, Any] = {
            "profiles": self._profiles,
            "services": self._services,
            "headers": self._headers.memory.array,
            "batch": self._batch,
            "event": self._event,
            "name_tables": self.services.matcher.tables.record,
            "answers": self._answers,
            "fragments": self._fragments,
            "pool_packets": self._kept.array,
            "pool_raw": self._kept_raw.array,
            "pool_owner": table_of(np.full(_POOL_ENTRIES, -1), np.int64),
            "service_ports": table_of(_service_ports(self._plan.config.direction.service_ports), np.bool_),
            "pool_next": table_of(np.full(_POOL_ENTRIES, -1), np.int32),
            "pool_free": table_of(np.arange(_POOL_ENTRIES)[::-1], np.int32),
            **{f"prefix_{column.removeprefix('start_')}": array for column, array in prefixes._asdict().items()},
            **{f"network_{column.removeprefix('start_')}": array for column, array in networks._asdict().items()},
        }
        for name, array in self._tables.items():
            self._place(name, array)
        naming = self._p["naming"]
        naming["tables"] = address_of(self.services.matcher.tables.record)
        naming["special_names"] = self.services.special_names.address
        self._place_index()
        self._place_addresses()

    def _place(self, name: str, array: Any) -> None:
        self._p[name], self._p[f"{name}_count"] = address_of(array), len(array)

    def _place_addresses(self) -> None:
        """DNS answers: their table is another one after it has grown."""
        self._addresses = self.services.addresses.tables
        for name, array in self._addresses._asdict().items():
            self._place(f"address_{name}", array)

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first packets would wait for."""
        self._begin_sweep(-_NEVER)
        self.process(Block(np.empty(0, np.uint8), records(np.zeros(0, FRAME))))
        FlowNames.warm_up()
        self._clock.warm_up()
        self.services.addresses.warm_up()
        self.services.matcher.tables.warm_up()
        prepare(copy_index, self._index.array, self._index.array)
        prepare(dns.take_dns_message, self._partition, np.empty(0, np.uint8), 0)
        prepare(dns.answer_dns, self._partition, 0, 0, True)
        prepare(dns.apply_dns, self._partition)

    def process(self, block: Block) -> None:
        """Process all frames of a block."""
        if self._settings.keeps_trail:
            self._lengthen_trail(self._frames + len(block.frames))
        self._control["frames_before"] = self._frames
        if self._clock.is_holding:
            self._judge_times(block)
        self._process(block)
        if self._settings.judges_time:
            self._clock.end_block(block)
        self._frames += len(block.frames)
        self.services.tell_learned()
        self.close_a_slice()
        if self._headers.in_use > self._flows_populated_for:
            self._flows_populated_for = self._headers.in_use + CHUNK // 4
            self._populator.wake()

    def _process(self, raw: Block, *, believed: bool = False) -> None:
        block, go_on = self._loop_over(raw)
        while True:
            event = go_on()
            if event == partition.END:
                break
            if event & partition.DNS:
                self._learn_dns(block)
            if event & partition.NAME:
                self._read_name(block)
            if event & partition.CLOSE:
                self._begin_closing()
            if event & partition.BOUNDARY:
                now_ns = int(self._control["boundary_ns"])
                if not believed and self._doubts(now_ns - self._shift_ns):
                    self._judge_times(raw)
                    block, go_on = self._loop_over(raw)
                elif self._interval_start is None or now_ns >= self._interval_start + self._plan.config.interval_ns:
                    self._turn_interval()
                else:
                    self._look_out(now_ns)
            if event & partition.BEHIND:
                self._judge_times(raw)
                block, go_on = self._loop_over(raw)
            if event & partition.FLUSH:
                self._flush()
            if event & partition.GROW:
                self._grow_index()

    @property
    def _shift_ns(self) -> int:
        return int(self._control["shift_ns"])

    def _loop_over(self, raw: Block) -> tuple[Block, Callable[[], int]]:
        """What the loop sees of a block, and how it is run until its next event."""
        block = self._shifted(raw)
        return block, bound(kernel.process, self._partition, block.buffer, block.frames)

    def _shifted(self, block: Block) -> Block:
        """With the times that the loop goes by: they go on where the clock was set back, so that no flow ends, and no
        timer and no feature class sees time run backwards."""
        if not self._shift_ns:
            return block
        frames = records(np.asarray(block.frames).copy())
        frames["ts_ns"] += self._shift_ns
        return block._replace(frames=frames)

    def _process_held(self, frames: Sequence[HeldFrame]) -> None:
        self._control["max_behind_ns"] = _NEVER // 2  # they are not doubted again
        for frame in frames:
            self._control["frames_before"] = frame.number
            self._process(frame.block, believed=True)

    def _lengthen_trail(self, frames: int) -> None:
        if len(self._trail) < frames:
            longer = table(max(frames, 2 * len(self._trail)), np.int16)
            longer[:] = -1
            longer[: len(self._trail)] = self._trail
            self._trail = longer
            self._place("trail", longer)

    @property
    def trail(self) -> NDArray[np.int16]:
        """The service of each frame so far, by number, in the order of the trace; -1: of none, or of another worker."""
        return self._trail[: self._frames]

    def _behind_ns(self) -> int:
        """How late a packet may come without a doubt in the trace's order."""
        if not self._settings.judges_time:
            return trace_clock.FAR_NS
        return max(self._lengths_ns) + self._plan.config.grace_ns

    @property
    def _latest_ns(self) -> int | None:
        return int(self._control["watermark_ns"]) - self._shift_ns if self._begun else None

    def _doubts(self, ts_ns: int) -> bool:
        """Whether a packet is so far ahead, or so much later than the last one, that its time has to be judged."""
        if self._settings.judges_time:
            return self._clock.doubts(ts_ns, self._latest_ns)
        return self.wall_ns is not None and ts_ns - self.wall_ns() > trace_clock.FAR_NS

    def _judge_times(self, block: Block) -> None:
        """Give the frames from here on to the trace's clock, until it is clear what they are."""
        control = self._control
        if not self._settings.judges_time:
            self._judge_by_the_wall(block)
            return
        at, judged = self._clock.take(block, int(control["frame_pos"]), self._latest_ns, self._frames)
        control["frame_pos"] = 0
        self._doubts_left -= any(judgement.late for judgement in judged)
        for judgement in judged:
            self._follow(judgement)
        control["frame_pos"], control["frames_before"] = at, self._frames

    def _judge_by_the_wall(self, block: Block) -> None:
        """Leave out the next frame, unless the clock of this machine was set back before it."""
        control, at = self._control, int(self._control["frame_pos"])
        ts_ns = int(block.frames["ts_ns"][at])
        if self.wall_ns is not None and abs(ts_ns - self.wall_ns()) > trace_clock.FAR_NS:
            self._count_strays(1, int(block.frames["wire_bytes"][at]))
            control["frame_pos"] = at + 1
        elif self.is_set_back():
            self.set_back(ts_ns)
        else:
            control["max_behind_ns"] = _NEVER // 2

    def _count_strays(self, frames: int, wire_bytes: int) -> None:
        counters = self._p["counters"]
        if self._control["my_partition"] == 0:
            counters[partition.PACKETS] += frames
            counters[REASONS.index("bad_time")] += frames
            counters[partition.WIRE_BYTES] += wire_bytes

    def _follow(self, judgement: Judgement) -> None:
        control = self._control
        self._count_strays(judgement.bad_frames, judgement.bad_wire_bytes)
        self._process_held(judgement.late)
        if judgement.goes_back:
            self.set_back(judgement.believed[0].ts_ns)
        if max((frame.ts_ns for frame in judgement.believed), default=0) + self._shift_ns >= trace_clock.LATEST_NS:
            self.start_over()
        self._begun |= bool(judgement.believed)
        if judgement.believed and self._times.first_ns is None:
            self._times = self._times._replace(first_ns=judgement.believed[0].ts_ns)
        self._process_held(judgement.believed)
        # Where captures with unlike clocks were put together, every other frame would be doubted.
        control["max_behind_ns"] = self._behind_ns() if self._doubts_left > 0 else trace_clock.FAR_NS

    def set_back(self, to_ns: int) -> None:
        """The clock was set back, to `to_ns`: report it, once for all workers. Intervals begin anew; flows go on."""
        self._p["counters"][partition.CLOCK_SET_BACK] += self._settings.number == 0
        from_ns, times, control = self._latest_ns, self.times, self._control
        if from_ns is not None and len(times.steps_back) < _STEPS_KEPT:
            times = times._replace(steps_back=(*times.steps_back, StepBack(from_ns, to_ns)))
        self._times = times
        if from_ns is None or int(control["watermark_ns"]) > _SHIFTED_UNTIL_NS:
            self.start_over()
            return
        self._end_intervals(idle_ns=_NEVER)
        control["max_behind_ns"] = self._behind_ns()
        control["shift_ns"] += max(from_ns - to_ns, 0)
        control["origin_ns"] = control["shift_ns"]

    @property
    def times(self) -> Times:
        """What was decided of the times of the packets so far."""
        latest = [ns for ns in (self._times.latest_ns, self._latest_ns) if ns is not None]
        behind_ns = int(self._control["most_behind_ns"])
        return self._times._replace(latest_ns=max(latest, default=None), most_behind_ns=behind_ns)

    @property
    def is_closing(self) -> bool:
        """Whether an interval is being closed: `advance` then has something to do."""
        return self._closing_ns is not None

    def advance(self, now_ns: int) -> None:
        """No packet of before `now_ns` is to come: end what ends by then, slice by slice."""
        self._begun = True
        now_ns += self._shift_ns
        control = self._control
        if now_ns > control["watermark_ns"]:
            if now_ns >= control["next_boundary_ns"]:
                control["boundary_ns"] = now_ns
                self._turn_interval()
            control["watermark_ns"] = now_ns
            if now_ns >= control["next_close_ns"]:
                self._begin_closing()
        self.close_a_slice()

    def start_over(self) -> None:
        """End all flows; intervals begin anew with the next packet, at whatever time."""
        control = self._control
        self._end_intervals(idle_ns=int(control["idle_ns"]))
        control["watermark_ns"] = _BEFORE_ALL_NS
        control["shift_ns"] = control["origin_ns"] = 0
        self._fragments[:] = np.zeros((), fragments.FRAGMENT)
        self._begun = False

    def _end_intervals(self, idle_ns: int) -> None:
        """Write the rows of all flows and the summary; end those that are idle at the end of all time."""
        self._finish_closing()
        control, flows_active = self._control, self._headers.in_use
        ends_after_ns, control["idle_ns"] = int(control["idle_ns"]), idle_ns
        self._begin_sweep(_NEVER)
        self._finish_closing()
        control["idle_ns"] = ends_after_ns
        self._summarise(flows_active)
        self._receiver.done_until(self._settings.number, _NEVER)
        self._receiver.restart(self._settings.number)
        control["next_boundary_ns"], control["next_close_ns"] = _BEFORE_ALL_NS, _NEVER
        self._services["short_starts"] = -_NEVER
        self._interval_start = None

    def learn(self, answers: Iterable[LearnedAnswer]) -> None:
        """Take what another process learnt, see `ServiceMap.learn`."""
        later_ns = self._shift_ns
        for client, server, expires_ns, learnt_ns, name, is_asked in answers:
            self.services.learn((client, server, expires_ns + later_ns, learnt_ns + later_ns, name, is_asked))
        if self.services.addresses.tables is not self._addresses:
            self._place_addresses()

    def finish(self) -> None:
        """The trace has ended: write what is open, end all flows."""
        control = self._control
        if self._clock.is_holding:
            for judgement in self._clock.finish(self._latest_ns):
                self._follow(judgement)
        self._finish_closing()
        flows_active = self._headers.in_use
        control["finishing"] = 1
        self._begin_sweep(_NEVER)
        self._finish_closing()
        self._summarise(flows_active)
        self._populator.close()
        self._receiver.done_until(self._settings.number, _NEVER)

    @property
    def flows_active(self) -> int:
        """Flows in the flow cache."""
        return self._headers.in_use

    @property
    def last_packets(self) -> NDArray[Any]:
        """Copies of the PACKET records of the last few packets; their frames are gone."""
        last = np.asarray(self._batch)
        return last[last["watermark_ns"] > 0].copy()

    @property
    def flow_bytes(self) -> int:
        """What active flows take: headers and states."""
        return sum(table.in_use * table.memory.dtype.itemsize for table in (self._headers, *self._states))

    @property
    def resident_bytes(self) -> int:
        """What the flow cache takes of the machine's memory: in pages, some of them populated ahead of use."""
        return self._index.resident_bytes + sum(table.resident_bytes for table in (self._headers, *self._states))

    @property
    def service_packets(self) -> NDArray[np.int64]:
        """Packets of each service since the start."""
        return np.asarray(self._services["packets"])

    @property
    def service_bytes(self) -> NDArray[np.int64]:
        """IP bytes of each service since the start."""
        return np.asarray(self._services["ip_bytes"])

    @property
    def counters(self) -> dict[str, int]:
        """All counters since the start, by `counters.COUNTERS`."""
        return dict(zip(COUNTERS, self._all_counters().tolist(), strict=True))

    def _all_counters(self) -> NDArray[np.int64]:
        found = np.empty(len(COUNTERS), np.int64)
        found[: len(partition.COUNTERS)] = self.packet_counters
        found[len(partition.COUNTERS) :] = self.counted_beside
        return found

    @property
    def packet_counters(self) -> NDArray[np.int64]:
        """Those of the packet loop, by `partition.COUNTERS`."""
        self._p["counters"][partition.CLASS_ERRORS] = sum(sum(counts.tolist()) for counts in self._step.errors)
        return np.asarray(self._p["counters"])

    @property
    def counted_beside(self) -> list[int]:
        """Those of what stands beside it, by `counters.COUNTED_BESIDE`."""
        shares_names = self._settings.partitions > 1 and self._settings.number > 0
        return counts_beside(self, is_first=not shares_names)

    @property
    def class_errors(self) -> dict[str, int]:
        """Of each feature class, how many of its calls raised; see `fuse.ProfileStep`."""
        found: dict[str, int] = {}
        for profile, counts in zip(self._plan.profiles, self._step.errors, strict=True):
            for cls, count in zip(profile.classes, counts.tolist(), strict=True):
                found[cls.__name__] = found.get(cls.__name__, 0) + count
        return found

    # Answers to the loop's events.

    def _grow_index(self) -> None:
        """Small, the index stays in the caches: 100,000 flows in one for a million cost 20 ns a packet more."""
        larger = new_index(min(_GROWTH * len(self._index.array) // 2, self._plan.config.flow_cache.max_flows))
        copy_index(self._index.array, larger.array)
        self._index = larger
        self._place_index()

    def _place_index(self) -> None:
        self._place("index", self._index.array)
        room = len(self._index.array) // 2
        is_largest = room >= self._plan.config.flow_cache.max_flows
        self._control["grow_at_flows"] = _NEVER if is_largest else room - partition.BATCH

    def _learn_dns(self, block: Block) -> None:
        """Finish what compiled code began with a packet of port 53, see `dns.answers.APPLY` and what follows it."""
        if self._answers["status"][0] != PIECE:
            self._finish_dns(lambda: self._payload(block)[2 * (self._event["protocol"][0] == 6) :])
            return
        r = self._event[0]
        ends = ("a", "b") if r["source_is_a"] else ("b", "a")
        key = tuple(int(r[f"{end}_{part}"]) for end in ends for part in ("hi", "lo", "port"))
        begins = int(self._answers["stream_start"][0])
        start_seq, now_ns = None if begins < 0 else begins, int(self._control["watermark_ns"])
        payload, is_syn = self._payload(block), bool(r["tcp_flags"] & 2)
        messages = self.dns_streams.feed(key, int(r["seq"]), payload, is_syn, start_seq)
        spend_more(self._p["dns_budget"], len(messages), now_ns)  # a piece may complete thousands
        for message in messages:
            dns.take_dns_message(self._partition, np.frombuffer(bytearray(message), np.uint8), now_ns)
            self._finish_dns(partial(bytes, message))

    def _payload(self, block: Block) -> bytes:
        r = self._event[0]
        start = int(r["payload_offset"])
        return block.buffer[start : start + int(r["captured_payload"])].tobytes()

    def _finish_dns(self, message: Callable[[], bytes]) -> None:
        answers = self._answers[0]
        status, asked = int(answers["status"]), 0
        while status == ASK:
            asked += 1  # names may be forgotten while others are asked about
            now_ns = int(self._control["watermark_ns"])
            status = dns.answer_dns(self._partition, self.services.ask_about_name(), now_ns, asked < _ASKED_MAX)
        if status == LARGE:
            client = int(answers["client_hi"]), int(answers["client_lo"])
            self.services.learn_dns(message(), *client, int(answers["ts_ns"]), is_asked=bool(answers["is_asked"]))
        while status == APPLY and not dns.apply_dns(self._partition):
            self._make_room_for_answers(int(answers["ts_ns"]))
        answers["status"] = IGNORED
        if self.services.addresses.tables is not self._addresses:
            self._place_addresses()

    def _make_room_for_answers(self, ts_ns: int) -> None:
        """Compiled code could not write an answer: the log is full, or the table is."""
        if not self.services.tell_learned():
            self.services.addresses.grow(ts_ns)
            self._place_addresses()

    def _read_name(self, block: Block) -> None:
        """Read the name in the packet that the loop has stopped at, or look up the one that the loop has read."""
        control, naming = self._control, self._p["naming"]
        r = self._batch[control["batch_pos"]]
        header = self._headers.memory.array[r["slot"]]
        told = read_asked(self.flow_names, self._p, header, r, block.buffer)
        service, name_id = self._service_of(told)
        if told.name:
            self.on_server_name(header, told.name, by=told.by, hides_another=self._hides_its_name(told))
            if partition.DNS_OVER_TLS not in (r["src_port"], r["dst_port"]):
                self._p["counters"][partition.DOH_FLOWS] += self.services.is_public_resolver(told.name)
        if told.status is Status.FOUND:
            count_hello(self._p["counters"], told.ech, self._hides_its_name(told))
        control["resume"] = 1
        control["resume_done"] = header["marks"] & NAME_DONE != 0
        control["resume_service"] = service
        control["resume_name"] = name_id
        control["resume_by"] = naming["by"]

    def _hides_its_name(self, told: Told) -> bool:
        """Whether a flow's server name is that of an ECH configuration, and its own one is hidden."""
        return bool(told.name and told.ech and self.services.is_public_name(told.name))

    def _service_of(self, told: Told) -> tuple[int, int]:
        """Service and name_id of a flow's server name; -1 for none, or OF_NO_SERVICE."""
        if told.name is None or self._hides_its_name(told):
            return -1, -1
        service = self.services.name_service(told.name)
        return (service, self.services.name_id(told.name)) if service >= 0 else (handshakes.OF_NO_SERVICE, -1)

    def _turn_interval(self) -> None:
        """The next packet is of a later interval: report the one before."""
        control = self._control
        now_ns = int(control["boundary_ns"])
        length = self._plan.config.interval_ns
        if self._interval_start is None and self._settings.first_packet_origin:
            control["origin_ns"] = now_ns
        self._finish_closing()  # so that what the summary says does not depend on when blocks end
        self._summarise(self._headers.in_use)
        self._interval_start = now_ns - (now_ns - int(control["origin_ns"])) % length
        self._look_out(now_ns)
        self._doubts_left = _DOUBTS
        if control["next_close_ns"] == _NEVER:
            self._schedule_close(now_ns)

    def _look_out(self, now_ns: int) -> None:
        """Stop at the end of the interval, and where the time may jump."""
        assert self._interval_start is not None
        end_ns = self._interval_start + self._plan.config.interval_ns
        self._control["next_boundary_ns"] = min(end_ns, now_ns + trace_clock.FAR_NS)

    def _schedule_close(self, now_ns: int) -> None:
        control, grace_ns = self._control, self._plan.config.grace_ns
        since_ns = now_ns - grace_ns - int(control["origin_ns"])
        control["next_close_ns"] = now_ns + min(length - since_ns % length for length in self._lengths_ns)

    def _begin_closing(self) -> None:
        """The watermark has passed the end of an interval and the grace: its flows are collected between blocks.

        Those whose next packet comes before their turn are collected by the loop.
        """
        self._finish_closing()
        now_ns = int(self._control["watermark_ns"])
        self._begin_sweep(now_ns - int(self._control["grace_ns"]))
        self._schedule_close(now_ns)

    def _begin_sweep(self, now_ns: int) -> None:
        """Collect what ended at `now_ns` or before, and drop what is idle by then: slice by slice."""
        control = self._control
        control["sweep_pos"], control["sweep_top"] = 0, self._p["slots"]["peak"]
        control["sweep_now_ns"] = self._closing_ns = now_ns

    def close_a_slice(self) -> None:
        """Go on with the interval that is being closed, if there is one."""
        if self._closing_ns is None:
            return
        status = self._sweep_slice()
        if status == partition.FLUSH:
            self._flush()
        elif status == partition.END:
            self._flush()
            if self._closing_ns < _NEVER:  # else the last summary comes first
                self._receiver.done_until(self._settings.number, self._closing_ns - self._shift_ns)
            self._closing_ns = None
            for table in (self._headers, *self._states):
                table.release_empty()
            self._release_kept()
            self._flows_populated_for = min(self._flows_populated_for, self._headers.in_use + CHUNK // 4)

    def _release_kept(self) -> None:
        """Give back the memory of first packets where they are kept of no flow. Not while the packet loop runs."""
        flows = int(self._p["counters"][partition.FLOWS_NEW])
        if flows - self._kept_flows < _FLOWS_A_RELEASE:
            return
        is_owned = self._tables["pool_owner"].reshape(_POOL_CHUNKS, -1) >= 0
        self._kept_flows = flows - int(np.count_nonzero(is_owned))
        is_used = is_owned.any(axis=1)
        borders = np.flatnonzero(np.diff(is_used, prepend=True, append=True))
        for begin, end in borders.reshape(-1, 2).tolist():
            for reserved in (self._kept, self._kept_raw):
                count = len(reserved.array) // _POOL_CHUNKS
                reserved.release(begin * count, (end - begin) * count)

    def _finish_closing(self) -> None:
        while self._closing_ns is not None:
            self.close_a_slice()

    def _flush(self) -> None:
        """Hand the rows over: few as a copy, many with the buffer that they are in."""
        for profile, filled in enumerate(self._profiles["rows"].tolist()):
            if filled:
                rows = np.asarray(self._rows[profile][:filled])
                if filled < len(self._rows[profile]) // 4:
                    rows = rows.copy()
                else:
                    self._rows[profile] = self._rooms[profile].take()
                    self._profiles["row"][profile] = address_of(self._rows[profile])
                self._receiver.rows(self._settings.number, profile, rows, self.services.names)
                self._profiles["rows"][profile] = 0

    def _summarise(self, flows_active: int) -> None:
        if self._interval_start is None:
            return
        now, packets, octets = self._all_counters(), self.service_packets.copy(), self.service_bytes.copy()
        counts = (now - self._last).tolist()
        of_services = (packets - self._last_packets).tolist(), (octets - self._last_bytes).tolist()
        summary = IntervalCounts(counts, self._losses(), flows_active, *of_services)
        self._last, self._last_packets, self._last_bytes = now, packets, octets
        self._receiver.summary(self._settings.number, self._interval_start - self._shift_ns, summary)
