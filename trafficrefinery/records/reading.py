"""Files of records back to batches: what sinks wrote, JSON lines (also zstd) or Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import UsageError
from trafficrefinery.system.files import available_bytes, check_regular, open_regular

from .aggregate import Batch
from .sinks.files import parquet_schema

CHUNK_BYTES = 16 << 20
_MOST_LINE_BYTES = 64 << 20
_CHUNK_ROWS = 1 << 15
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PARQUET_MAGIC = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its content.

    Raises:
        UsageError: it cannot be read.
    """
    with _opened(path) as file:
        return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", opener=open_regular)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_table(path: Path) -> pa.Table:
    """A Parquet file that somebody else may have made: a few bytes of it can ask for more memory than there is.

    Raises:
        OSError: it cannot be read.
        pyarrow.ArrowException: it is not Parquet.
        MemoryError: it does not fit.
    """
    check_regular(path)
    with pq.ParquetFile(path) as file:
        found = file.metadata
        groups = [found.row_group(number) for number in range(found.num_row_groups)]
        plain_bytes = sum(group.total_byte_size for group in groups) + 8 * found.num_rows * found.num_columns
        schema = file.schema_arrow
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
    if plain_bytes > available_bytes() // 2:
        raise MemoryError
    table = pq.ParquetFile(path, read_dictionary=texts).read()
    for name in texts:
        at = schema.get_field_index(name)
        if _text_bytes(table.column(at)) > available_bytes() // 2:
            raise MemoryError
        table = table.set_column(at, schema.field(at), table.column(at).cast(schema.field(at).type))
    return table.replace_schema_metadata(schema.metadata)


def read_given_table(path: Path, no_table: str = "cannot be read: {}") -> pa.Table:
    """The same for a file that a user names, with an error for the user.

    Args:
        no_table: what is said of a file that is not Parquet; the reason takes the place of `{}`.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return read_table(path)
    except MemoryError as error:  # which pyarrow's own is one of
        message = f"needs more memory than there is ({available_bytes() >> 20:,} MiB)"
        raise UsageError(f"{path}: {message}") from error
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise UsageError(f"{path}: cannot be read: {reason}") from error
    except pa.ArrowException as error:
        raise UsageError(f"{path}: {no_table.format(error)}") from error


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Of a column whose values are in a dictionary: what it takes when each row has its own."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
        total += pc.sum(lengths).as_py() or 0
    return total


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, many at once; plain or zstd. A last line without an end is left out.

    Raises:
        UsageError: the file cannot be read.
    """
    with _opened(path) as opened:
        packed = opened.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        opened.seek(0)
        source: Any = opened  # zstandard's reader has no common type with files
        if packed:
            source = zstandard.ZstdDecompressor().stream_reader(opened, read_across_frames=True)
        rest = b""
        try:
            while chunk := source.read(CHUNK_BYTES):
                rest += chunk
                end = rest.rfind(b"\n") + 1
                if end:
                    yield rest[:end]
                    rest = rest[end:]
                elif len(rest) > _MOST_LINE_BYTES:
                    raise UsageError(f"{path}: holds no records: a line has more than {_MOST_LINE_BYTES >> 20} MiB")
        except zstandard.ZstdError as error:
            raise UsageError(f"{path}: is damaged: {error}") from None


def read_batches(paths: Sequence[Path], plan: Plan) -> Iterator[Batch]:
    """The records of files, in the order of their intervals, with the features that a configuration collects.

    Raises:
        UsageError: a file holds no records, or not those of this configuration.
    """
    waiting: list[pl.DataFrame] = []  # of the interval that may go on
    for path in paths:
        for frame in _Reader(path, plan).frames():
            last = frame["ts_end"][-1]
            if waiting and waiting[0]["ts_end"][0] == last:
                waiting.append(frame)
                continue
            yield from _batches(pl.concat([*waiting, frame.filter(pl.col("ts_end") != last)]), plan, path)
            waiting = [frame.filter(pl.col("ts_end") == last)]
    if waiting:
        yield from _batches(pl.concat(waiting), plan, paths[-1])


class _Reader:
    """One file of records, in frames with the columns of `parquet_schema`."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path, self._plan = path, plan
        self._schema = pl.DataFrame(parquet_schema(plan).empty_table()).schema
        self._flow = {name: kind for name, kind in self._schema.items() if "." not in name}

    def frames(self) -> Iterator[pl.DataFrame]:
        """All records, some at a time."""
        made = self._of_parquet() if is_parquet(self._path) else self._of_lines()
        yield from (frame for frame in made if len(frame))

    def _of_parquet(self) -> Iterator[pl.DataFrame]:
        file = pq.ParquetFile(self._path)
        missing = [name for name in self._schema if name not in file.schema_arrow.names]
        if missing:
            self._refuse(missing)
        for batch in file.iter_batches(_CHUNK_ROWS, columns=list(self._schema)):
            yield pl.DataFrame(pa.Table.from_batches([batch])).select(self._schema.names()).cast(self._schema)

    def _of_lines(self) -> Iterator[pl.DataFrame]:
        classes: dict[str, list[pl.Field]] = {}
        for name, kind in self._schema.items():
            cls, dot, field = name.partition(".")
            if dot:
                classes.setdefault(cls, []).append(pl.Field(field, kind))
        features = pl.Struct([pl.Field(cls, pl.Struct(fields)) for cls, fields in classes.items()])
        schema: dict[str, Any] = {**self._flow, "features": features}
        kinds: set[str | None] = set()
        for lines in whole_lines(self._path):
            try:
                frame = pl.read_ndjson(io.BytesIO(lines), schema=schema)
            except pl.exceptions.PolarsError as error:
                reason = " ".join(str(error).split())[:120]
                raise UsageError(f"{self._path}: holds no records as `replay` and `run` write them: {reason}") from None
            kinds.update(frame["kind"].unique())
            frame = frame.filter(pl.col("kind") == "flow")
            groups = frame["features"].struct.unnest()
            columns = [
                groups[cls].struct.field(field.name).alias(f"{cls}.{field.name}")
                for cls, fields in classes.items()
                for field in fields
            ]
            yield pl.DataFrame([*(frame[name] for name in self._flow), *columns])
        if kinds and "flow" not in kinds:
            found = ", ".join(sorted(str(kind) for kind in kinds))
            raise UsageError(f"{self._path}: has no records of flows; the kind of its records is {found}")

    def _refuse(self, missing: Iterable[str]) -> None:
        raise UsageError(
            f"{self._path}: has no column {next(iter(missing))}, which {self._plan.config.file} collects; "
            "give the configuration that the records were made with"
        )


def _batches(frame: pl.DataFrame, plan: Plan, path: Path) -> Iterator[Batch]:
    """Records as an aggregator gives them: by end, service, `flow_id`."""
    numbers = {service.name: number for number, service in enumerate(plan.config.services)}
    ordered = frame.sort("ts_end", "service", "flow_id", maintain_order=True)
    for (_, service), part in ordered.group_by("ts_end", "service", maintain_order=True):
        name = str(service)
        if name not in numbers:
            raise UsageError(f'{path}: has records of service "{name}", which is not in {plan.config.file}')
        features = {}
        for cls in plan.profiles[plan.service_profile[numbers[name]]].classes:
            fields = output_fields(cls)
            columns = [part[f"{cls.__name__}.{field.name}"].alias(field.name) for field in fields]
            whole = [column for column, field in zip(columns, fields, strict=True) if field.kind == "int"]
            if any(column.null_count() for column in whole):  # these are never null where they are collected
                raise UsageError(
                    f"{path}: records of {name} have no {cls.__name__}, which {plan.config.file} collects; "
                    "give the configuration that the records were made with"
                )
            features[cls.__name__] = columns
        flow = {column: part[column] for column in part.columns if "." not in column}
        yield Batch(name, flow, features)
