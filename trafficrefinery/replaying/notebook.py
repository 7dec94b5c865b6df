"""Replay in a notebook: `trafficrefinery.replay`, and `trafficrefinery.replay_sessions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from trafficrefinery.api import FeatureClass
from trafficrefinery.capture.sources import open_traces
from trafficrefinery.capture.traces.discovery import each_once
from trafficrefinery.config import Config, load_config, parse_config
from trafficrefinery.config.fields import CLASS_ALIASES
from trafficrefinery.config.inference import find_model
from trafficrefinery.engine.feature_classes.registry import check_declarations
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings
from trafficrefinery.errors import FeatureError, UsageError
from trafficrefinery.models.inference import Predictor
from trafficrefinery.models.sessions import SessionRegistry
from trafficrefinery.models.stream import Inferring, Moment
from trafficrefinery.models.targets import UNITS
from trafficrefinery.records.aggregate import Aggregator, Batch
from trafficrefinery.records.inferences import FLOW, PROBABILITY, QUANTILE, QUANTILES, SESSION, inference_schema
from trafficrefinery.records.sinks.files import table_of
from trafficrefinery.records.summary import Summary

from .job import CompilingNote, Job, Result, compiler_reported
from .single import replay_here, summary_of

Feature = str | type[FeatureClass] | Mapping[Any, Mapping[str, Any]]
"""A name, a class, or one of them with its parameters: `{"VideoSegments": {"MinBytes": 30000}}`."""
Services = Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]

_ALL_TRAFFIC = {"All": {"Prefixes": ["0.0.0.0/0", "::/0"]}}


def replay(  # noqa: PLR0913 (keywords, each with a default)
    traces: str | Path | Sequence[str | Path],
    features: Sequence[Feature] | Feature | None = None,
    *,
    interval: str | None = None,
    services: Services | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    align: str = "epoch",
    model: str | Path | Sequence[str | Path] = (),
) -> Table:
    """Turn recorded packets into a table: a row for each flow of a service and interval.

    Args:
        traces: one or several trace files.
        features: feature classes by name, or classes themselves, also ones from a notebook cell; either may be given
            parameters: `{"VideoSegments": {"MinBytes": 30000}}`. Default: what `config` collects, else PacketCounters.
        interval: length of an interval, such as "10s". Default: of `config`, else "10s".
        services: a filter for each service, such as `{"Netflix": {"DomainsString": ["nflxvideo.net"]}}`, or service
            blocks as in a configuration file. Default: all traffic as one service.
        config: a configuration file, or its content, in place of `services`.
        align: "epoch" or "first-packet", where intervals are counted from.
        model: folders of models of flows, whose answers stand behind the features, as in `replay_sessions`.

    Raises:
        BundleError: a model is damaged, or does not fit what is collected.
        ConfigError, FeatureError, UsageError, TraceError: what is wrong, where, and what would be right.
    """
    plan = _plan_of(features, interval, services, config)
    inferring = _inferring(plan, model, FLOW)
    result = Result(Aggregator(plan, 1))
    batches, moments = list[Batch](), list[Moment]()
    for batch in _batches(plan, traces, align, result):
        batches.append(batch)
        moments += inferring.add(batch)
    moments += inferring.finish()
    table = _with_inferences(table_of(batches, plan), moments, inferring.predictor, FLOW)
    return Table(table, result.counters, result.summary)


def replay_sessions(  # noqa: PLR0913 (keywords, each with a default)
    traces: str | Path | Sequence[str | Path],
    features: Sequence[Feature] | Feature | None = None,
    *,
    model: str | Path | Sequence[str | Path] = (),
    interval: str | None = None,
    services: Services | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    align: str = "epoch",
) -> Table:
    """Turn recorded packets into a table of video sessions: a row for each session and interval.

    `traces`, `interval`, `services`, `config` and `align` are as in `replay`.

    Args:
        features: as in `replay`. Default: what `config` collects, else all classes that session features need.
        model: folders of trained models, or names of bundled ones; default: those of `config`. What they infer stands
            behind the features: of each target its value, such as `inferred.resolution`, and beside it
            `inferred.resolution.confidence`, `.why` and others.

    Raises:
        BundleError: a model is damaged, or does not fit what is collected.
        ConfigError, FeatureError, UsageError, TraceError: see `replay`.
    """
    if features is None and config is None:
        needed = {name for cls in SessionRegistry().classes for name in cls.needs}
        features = sorted(needed)
    plan = _plan_of(features, interval, services, config)
    inferring = _inferring(plan, model or plan.config.inference.models, SESSION)
    result = Result(Aggregator(plan, 1))
    moments: list[Moment] = []
    for batch in _batches(plan, traces, align, result):
        moments += inferring.add(batch)
    moments += inferring.finish()
    made = [moment.sessions for moment in moments if moment.sessions is not None]
    table = pa.concat_tables([inferring.views.schemas[SESSION].empty_table(), *made])
    table = _with_inferences(table, moments, inferring.predictor, SESSION)
    return Table(table, {**result.counters, **inferring.views.counters}, result.summary)


def _inferring(plan: Plan, model: str | Path | Sequence[str | Path], unit: str) -> Inferring:
    given = [model] if isinstance(model, str | Path) else model
    inferring = Inferring(plan, [_model(one) for one in given], with_sessions=unit == SESSION)
    for target in inferring.predictor.targets if inferring.predictor else ():
        if target.unit != unit:
            raise UsageError(f"model: {target.name} is asked of {UNITS[target.unit].many}, not of {UNITS[unit].many}")
    return inferring


def _with_inferences(table: pa.Table, moments: Sequence[Moment], predictor: Predictor | None, unit: str) -> pa.Table:
    """Add what was inferred of each target, null where it was not answered."""
    if predictor is None:
        return table
    empty = inference_schema(predictor.labels).empty_table()
    told = pa.concat_tables([empty, *(moment.inferences for moment in moments if moment.inferences is not None)])
    keys = ["ts_end", "service", UNITS[unit].id]
    rows = pl.DataFrame(table.select(keys))
    for target in predictor.targets:
        value = "value" if target.has_labels else "quantity"
        beside = [f"{PROBABILITY}{label}" for label in predictor.labels_of[target.name]] or [
            f"{QUANTILE}{quantile}" for quantile in QUANTILES
        ]
        beside = ["confidence", *beside] if target.has_labels else beside
        names = [value, *beside, "applies", "why", "drift", "model"]
        own = pl.DataFrame(told.filter(pc.equal(told["target"], target.name)).select([*keys, *names]))
        made = rows.join(own, on=keys, how="left", maintain_order="left").to_arrow()
        for name in names:
            full = f"inferred.{target.name}" + ("" if name == value else f".{name}")
            table = table.append_column(full, made[name].cast(told.schema.field(name).type))
    return table


def _model(model: str | Path) -> Path:
    try:
        return find_model(model)
    except ValueError as error:
        raise UsageError(f"model: {error}") from None


def _plan_of(
    features: Sequence[Feature] | Feature | None, interval: str | None, services: Services | None,
    config: str | Path | Mapping[str, Any] | None,
) -> Plan:  # fmt: skip
    chosen = [features] if isinstance(features, str | type | Mapping) else features or ()
    collect, classes = _collect(chosen)
    return Plan.of(_config_of(collect, interval, services, config), classes)


def _batches(plan: Plan, traces: str | Path | Sequence[str | Path], align: str, result: Result) -> Iterator[Batch]:
    if align not in ("epoch", "first-packet"):
        raise UsageError(f'align: "{align}" is not one of epoch, first-packet')
    paths = [traces] if isinstance(traces, str | Path) else traces
    names, left_out = each_once([*map(str, paths)])
    job = Job(plan, tuple(names), Settings(first_packet_origin=align == "first-packet"))
    with compiler_reported(CompilingNote()), open_traces(plan.config, names) as reader:
        yield from replay_here(job, reader, result)
    result.reading = result.reading._replace(left_out=left_out)
    result.summary = summary_of(plan.config, result)
    for failure in result.failures:
        raise failure


def _collect(features: Sequence[Feature]) -> tuple[list[Any], list[type[FeatureClass]]]:
    """`Collect` of a configuration, and the classes in it that are no names."""
    items: list[Any] = []  # JSON values
    classes: list[type[FeatureClass]] = []

    def name_of(feature: Any) -> Any:  # whatever the user gave
        if not isinstance(feature, type):
            return feature
        if not issubclass(feature, FeatureClass):
            raise FeatureError(
                feature.__name__, "is not a feature class; derive it from trafficrefinery.api.FeatureClass"
            )
        if feature.__name__ in CLASS_ALIASES:
            known = CLASS_ALIASES[feature.__name__]
            raise FeatureError(feature.__name__, f"is another name of {known}; give the class a name of its own")
        check_declarations(feature, feature.__name__)
        classes.append(feature)
        return feature.__name__

    for feature in features:
        if isinstance(feature, Mapping):
            items.append({name_of(key): value for key, value in feature.items()})
        else:
            items.append(name_of(feature))
    return items, classes


def _config_of(
    collect: list[Any], interval: str | None, services: Services | None, config: str | Path | Mapping[str, Any] | None
) -> Config:
    if config is None:
        blocks = _ALL_TRAFFIC if services is None else services
        if isinstance(blocks, Mapping):
            blocks = [{"Name": name, "Filter": rule} for name, rule in blocks.items()]
        return parse_config({
            "Interval": interval or "10s",
            "Services": [{"Collect": ["PacketCounters"], **block, **_given(collect)} for block in blocks],
        })  # fmt: skip
    if services is not None:
        raise UsageError("replay: give services or config, not both")
    whole = parse_config(config) if isinstance(config, Mapping) else load_config(config)
    if not collect and interval is None:
        return whole
    content = whole.to_dict()
    own = {**_given(collect), **({"Interval": interval} if interval else {})}
    blocks = [{**block, **own} for block in content["Services"]]
    return parse_config({**content, "Interval": interval or content["Interval"], "Services": blocks}, whole.file)


def _given(collect: list[Any]) -> dict[str, Any]:
    return {"Collect": collect} if collect else {}


class Table:
    """Records as an Arrow table: a column for each field, those of features named `Class.field`; of sessions,
    `group.field`.

    Attributes:
        arrow: the table.
        counters: packets by reason, and others.
        summary: what there is to know of the run, as in `summary.json`.
    """

    def __init__(self, arrow: pa.Table, counters: Mapping[str, int], summary: Summary = Summary()) -> None:  # noqa: B008
        self.arrow = arrow
        self.counters = dict(counters)
        self.summary = dict(summary.content)

    def __len__(self) -> int:
        return len(self.arrow)

    def __repr__(self) -> str:
        return repr(self.to_polars())

    def _repr_html_(self) -> str:
        return self.to_polars()._repr_html_()

    def to_arrow(self) -> pa.Table:
        """As a pyarrow table, which it is."""
        return self.arrow

    def to_polars(self) -> pl.DataFrame:
        """As a polars data frame; numbers are not copied."""
        return pl.DataFrame(self.arrow)

    def to_pandas(self) -> Any:
        """As a pandas data frame; pandas must be installed."""
        try:
            return self.arrow.to_pandas()
        except ImportError as error:
            raise UsageError(
                "to_pandas: needs the package pandas, which is not installed; install the extra pandas of this "
                "program, or take to_polars(), which needs nothing more"
            ) from error
