"""What a model requires of the configuration or the table that it is used with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import pyarrow as pa

from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import did_you_mean
from trafficrefinery.models.sessions import SessionField, SessionRegistry
from trafficrefinery.models.sessions.provenance import FEATURE_CLASS, SESSION_FEATURE, Provenance, UsedCode
from trafficrefinery.models.targets import UNITS
from trafficrefinery.models.units.client_view import client_fields
from trafficrefinery.models.units.flow_columns import UnitField, flow_fields, unit_name
from trafficrefinery.records.inferences import FLOW, SESSION

from .bundle import Bundle, BundleError, unit_of


def other_unit(trained: str, here: str) -> bool:
    """Whether a column has another unit than in training; words, such as "bytes a packet", are not a unit."""
    return " " not in trained and trained != here


def check(bundle: Bundle, plan: Plan) -> None:
    """See that a configuration gives what a model was trained on.

    Raises:
        BundleError: with the first difference, and what to do.
    """
    file, unit = plan.config.file, bundle.target.unit
    fields = fields_of(unit, plan, bundle.services)
    for column, trained, feature in zip(bundle.columns, bundle.units, bundle.features, strict=True):
        if column not in fields:
            raise BundleError(_missing(bundle, column, feature, fields))
        if other_unit(trained, unit_of(fields[column].doc)):
            raise BundleError(
                f'{bundle.label}: {column} is in "{trained}", here it is in "{unit_of(fields[column].doc)}"; '
                "train the model again"
            )
        _check_code(bundle, column, fields[column].made_by, file, by_key=True)
    opening = plan.config.sessions.opening_class if unit == SESSION else ""
    if unit == SESSION and plan.config.sessions.opened_by != bundle.opened_by:
        raise BundleError(
            f"{file}: Sessions.OpenedBy: is {plan.config.sessions.opened_by}, {bundle.label} was trained on sessions "
            f"that are opened by {bundle.opened_by}; set it to that, or train on these"
        )
    covered = 0
    for number, service in enumerate(plan.config.services):
        profile = plan.profiles[plan.service_profile[number]]
        collected = [cls.__name__ for cls in profile.classes]
        has_units = not opening or opening in collected
        if not has_units or (bundle.services and service.name not in bundle.services):
            continue
        covered += 1
        key = f"{file}: Services[{number}] ({service.name})"
        missing = [name for name in bundle.needs if name not in collected]
        if missing:
            raise BundleError(f"{key}: Collect: {bundle.label} needs {', '.join(missing)} as well; add to Collect")
        if profile.interval_ns != round(bundle.interval_s * 1e9):
            raise BundleError(
                f"{key}: Interval: is {profile.interval_ns / 1e9:g}s, {bundle.label} was trained on "
                f"{bundle.interval_s:g}s; set it to that, or train on this one"
            )
        if profile.first_packets != bundle.first_packets:
            here, there = (one or "all" for one in (profile.first_packets, bundle.first_packets))
            raise BundleError(
                f"{key}: FirstPackets: is {here}, {bundle.label} was trained on {there}; "
                "set it to that, or train on this one"
            )
    if not covered:
        services = f", for {', '.join(bundle.services)}" if bundle.services else ""
        more = f"; collect {opening}" if opening else ""
        raise BundleError(f"{file}: Services: none has {UNITS[unit].many} for {bundle.label}{services}{more}")


def fields_of(unit: str, plan: Plan, services: Collection[str] = ()) -> Mapping[str, SessionField | UnitField]:
    """The features that a configuration gives of a kind of units, of some services; none: of all."""
    if unit == SESSION:
        return {field.name: field for field in SessionRegistry.of(plan, services).fields()}
    fields = flow_fields(plan, services) if unit == FLOW else client_fields(plan, services)
    return {field.name: field for field in fields}


def check_table(bundle: Bundle, table: pa.Schema, file: str) -> None:
    """See that a table is of the units of a model and has its columns, made by the code that it was trained on.

    Raises:
        BundleError: with the first difference, and what to do.
    """
    here, there = (UNITS[one].many for one in (unit_name(table, SESSION), bundle.target.unit))
    if here != there:
        raise BundleError(
            f"{file}: is a table of {here}, {bundle.label} is a model of {there}; build one with labels of "
            f"{bundle.target.name}"
        )
    for column, feature in zip(bundle.columns, bundle.features, strict=True):
        if column not in table.names:
            code = _code_of(bundle.code, SESSION_FEATURE, feature)[0]
            by = f"{code}, and " if code.file else ""
            raise BundleError(
                f"{file}: has no column {column}, which {bundle.label} needs; make the table with {by}a configuration "
                f"that collects {', '.join(bundle.needs)}"
            )
        made_by = Provenance.of(table.field(column))
        if made_by is not None:
            _check_code(bundle, column, made_by, file)


def _missing(bundle: Bundle, column: str, feature: str, known: Iterable[str]) -> str:
    code = _code_of(bundle.code, SESSION_FEATURE, feature)[0]
    if code.file:
        return f"{bundle.label}: no session feature gives {column}; add the file of {code} to FeaturePaths"
    hint = did_you_mean(column, known)
    if bundle.target.unit == SESSION:
        return f"{bundle.label}: no session feature gives {column}{hint}; add its file to FeaturePaths"
    needs = ", ".join(bundle.needs)
    return f"{bundle.label}: nothing that is collected gives {column}{hint}; collect {needs} as it was in training"


def _check_code(bundle: Bundle, column: str, made_by: Provenance | None, file: str, *, by_key: bool = False) -> None:
    """See that a column is made by the code that it was made by in training: the same files, or built-in classes, with
    the same parameters."""
    if made_by is None:
        return
    for kind, name in ((SESSION_FEATURE, made_by.feature), *((FEATURE_CLASS, name) for name in made_by.needs)):
        trained = _code_of(bundle.code, kind, name)
        there = trained[0]
        for here in _code_of(made_by.code, kind, name):
            if here[2:] in [one[2:] for one in trained]:
                continue
            if here.sha256 == there.sha256:
                has, had = (dict(one.parameters) or "their defaults" for one in (here, there))
                reason = f"the parameters of {name} are {has}, {bundle.label} was trained with {had}; set these"
            elif here.file and there.file:
                digests = f"SHA-256 {there.sha256[:12]}, here {here.sha256[:12]}"
                reason = (
                    f"{here} differs from the file that {bundle.label} was trained on ({digests}); put that file back"
                )
            elif here.file:
                reason = f"{here} gives {column}, but {bundle.label} was trained without that file; remove it from here"
            else:
                reason = f"{bundle.label} was trained on {there}, here {column} is made by the built-in {name}; add it"
            where = f"{file}: {_KEYS[kind, here.sha256 == there.sha256]}" if by_key else file
            raise BundleError(f"{where}: {reason}, or train the model again")


_KEYS = {
    (SESSION_FEATURE, True): "Sessions.Parameters", (FEATURE_CLASS, True): "Services: Collect",
    (SESSION_FEATURE, False): "FeaturePaths", (FEATURE_CLASS, False): "FeaturePaths",
}  # fmt: skip
"""Where the parameters of a class are set, and where its file is named."""


def _code_of(code: Iterable[UsedCode], kind: str, name: str) -> list[UsedCode]:
    """The class as it was used, in several ways where services set other parameters; the built-in one with its
    defaults where nothing else is said."""
    return [one for one in code if (one.kind, one.name) == (kind, name)] or [UsedCode(kind, name)]


def classes_behind(columns: Iterable[str], made_by: Mapping[str, Provenance]) -> tuple[str, ...]:
    """The feature classes of flows that columns are made from, as far as it is known what these are made by."""
    return tuple(dict.fromkeys(name for column in columns if column in made_by for name in made_by[column].needs))


def code_behind(columns: Iterable[str], made_by: Mapping[str, Provenance]) -> tuple[UsedCode, ...]:
    """The user's own code that columns are made by, and built-in classes with other parameters than their defaults."""
    return tuple(dict.fromkeys(one for column in columns if column in made_by for one in made_by[column].code))
