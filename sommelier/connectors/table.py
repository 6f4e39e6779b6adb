"""Connector `table`: models described in a table, without their weights.

Several tables of one import are merged by model name: one row of ours with all their numbers. Every
number is DECLARED, with the table's file name as its method. The tables of timm and of the ONNX zoo
are known by their header, unless options say which column means what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sommelier.connectors import onnx_catalogs, table_mapping
from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.downloads import DownloadLimits, download
from sommelier.connectors.naming import printable
from sommelier.connectors.patterns import matches
from sommelier.connectors.table_rows import BadRow, Row, TableFile, read_table, table_suffix
from sommelier.connectors.timm import TimmTables
from sommelier.errors import ConnectorError, RejectedModelError, reason
from sommelier.records import Artifact, Measurement, Rejection

MAX_TABLE_BYTES = 500 * 10**6


class TableConnector:
    """Reads rows of declared metadata; timm's and the ONNX zoo's tables are known by header."""

    name = "table"
    options: Mapping[str, str] = {
        **table_mapping.MAPPING_OPTIONS,
        "max_size": "largest table to read, unpacked (500 MB)",
    }

    def describe(self) -> str:
        """What a location is."""
        return (
            "tables that describe models, as files or at an address: CSV, TSV, JSON, JSON lines "
            "(or .gz), Parquet"
        )

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact without a path for each model, and a Rejection for each bad row or file."""
        opt.check(self.name, options, self.options)
        limit = opt.size(options, "max_size", MAX_TABLE_BYTES)
        paths = _find(locations, limit)
        mapping = {k: v for k, v in options.items() if k != "max_size" and v is not None}
        tables, rejected = _read_all(paths, limit, progress)
        gathered = _Gathered(mapping, [t for t in tables if mapping or not _known(t)])
        return self._artifacts(tables, rejected, gathered)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The models the tables speak of."""
        for item in self.fetch(locations, options=options):
            if isinstance(item, Artifact):
                yield Listing(item.name, str(item.revision))

    def _artifacts(
        self, tables: Sequence[TableFile], rejected: Sequence[Rejection], gathered: _Gathered
    ) -> Iterator[Artifact | Rejection]:
        yield from rejected
        for table in tables:
            for row in table.rows:
                why = row.reason if isinstance(row, BadRow) else gathered.refusal(table, row)
                if why is not None:
                    revision = printable(f"{table.path}:{row.number}")
                    yield Rejection(self.name, revision, f"row {row.number}: {why}")
        yield from gathered.artifacts()


@dataclass(slots=True)
class _Model:
    """What the rows of one name and version say. The first of them wins where facts differ."""

    first: Artifact
    declared: dict[str, object]
    numbers: dict[tuple[object, ...], Measurement]

    @classmethod
    def of(cls, first: Artifact) -> _Model:
        return cls(first, dict(first.declared), {_key(m): m for m in first.measurements})

    def add(self, other: Artifact) -> None:
        """Takes in another row. Raises ValueError, and takes nothing, if it says otherwise."""
        for measurement in other.measurements:
            known = self.numbers.get(_key(measurement), measurement)
            if known.value != measurement.value:
                raise ValueError(
                    f"'{other.name}' again ({self.first.revision}), with another "
                    f"{measurement.metric}: {measurement.value:g} instead of {known.value:g}"
                )
        for measurement in other.measurements:
            self.numbers.setdefault(_key(measurement), measurement)
        self.declared = {**other.declared, **self.declared}

    def artifact(self) -> Artifact:
        return replace(
            self.first, declared=self.declared, measurements=tuple(self.numbers.values())
        )


class _Gathered:
    """Rows of all tables, merged by model name and version."""

    def __init__(self, options: Mapping[str, object], unknown: Sequence[TableFile]) -> None:
        self._timm = TimmTables()
        self._models: dict[tuple[str, str | None], _Model] = {}
        self._mappings = {t.path: table_mapping.mapping_for(t, options) for t in unknown}

    def refusal(self, table: TableFile, row: Row) -> str | None:
        """Takes in a row; what is wrong with it if it is not taken."""
        try:
            self._add(table, row)
        except KeyError as error:
            return f"it has no {error}"
        except (ValueError, TypeError) as error:
            return str(error)
        return None

    def artifacts(self) -> Iterator[Artifact | Rejection]:
        """Every model once. A name that timm's and another table share is merged too."""
        for item in self._timm.artifacts():
            model, other = _Model.of(item), self._models.pop((item.name, item.version), None)
            if other is not None:
                try:
                    model.add(other.artifact())
                except ValueError as error:
                    yield Rejection("table", str(other.first.revision), str(error))
            yield model.artifact()
        for model in self._models.values():
            yield model.artifact()

    def _add(self, table: TableFile, row: Row) -> None:
        if table.path in self._mappings:
            found = table_mapping.artifact(table, row, self._mappings[table.path])
        elif TimmTables.recognises(table):
            self._timm.add(table, row)
            return
        else:
            found = onnx_catalogs.artifact(table, row)
        key = (found.name, found.version)
        if key in self._models:
            self._models[key].add(found)
        else:
            self._models[key] = _Model.of(found)


def _key(m: Measurement) -> tuple[object, ...]:
    return (m.metric, m.method, m.device, m.batch, m.percentile, m.dataset, m.precision)


def _known(table: TableFile) -> bool:
    return TimmTables.recognises(table) or onnx_catalogs.recognises(table)


def _read_all(
    paths: Sequence[Path], limit: int, progress: Progress | None
) -> tuple[list[TableFile], list[Rejection]]:
    tables, rejected = [], []
    for done, path in enumerate(paths):
        if progress:
            progress(path.name, done, len(paths))
        try:
            tables.append(read_table(path, max_size=limit))
        except RejectedModelError as error:
            rejected.append(Rejection("table", printable(str(path)), reason(error)))
    if progress:
        progress("", len(paths), len(paths))
    return tables, rejected


def _find(locations: tuple[str, ...], limit: int) -> list[Path]:
    """Table files at the locations, each once; those at an address are fetched.

    Raises ConnectorError if a location has none.
    """
    if not locations:
        raise ConnectorError("table needs a file", hint="FROM table './results/*.csv'")
    found: dict[Path, None] = {}
    for location in locations:
        path = Path(location).expanduser()
        if location.startswith(("http://", "https://")):
            paths = [download(location, limits=DownloadLimits(bytes=limit))]
        elif path.is_dir():
            paths = sorted(p for p in path.iterdir() if p.is_file() and table_suffix(p))
        elif path.exists():
            paths = [path]
        else:
            paths = sorted({p for p in map(Path, matches(str(path))) if p.is_file()})
        if not paths:
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            close = opt.nearest(path.name, beside)
            raise ConnectorError(
                f"there is no table '{location}' (in {Path.cwd()})",
                suggestions=tuple(str(Path(location).parent / name) for name in close),
            )
        found.update(dict.fromkeys(paths))
    return list(found)
