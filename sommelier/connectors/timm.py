"""The results and benchmark tables of timm (huggingface/pytorch-image-models), as declared rows.

Accuracy, FLOPs and latency of an image model depend on the size of the picture, so a row of ours is
one model at one image size: numbers of different sizes are never mixed. The size with the best
declared accuracy has the model's plain name, others are `name/size`. Benchmarks know architectures,
not checkpoints: their numbers go to every model of that architecture at that size, and an
architecture (or size) no results table speaks of is a row of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sommelier.connectors.table_rows import Row, TableFile, number, words
from sommelier.records import Artifact, Measurement, Provenance

RESULTS = frozenset({"model", "img_size", "top1", "top5", "param_count"})
BENCHMARK = frozenset({"model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size",
                       "infer_img_size"})  # fmt: skip
PRETRAINING = frozenset({"model", "pretrain"})

_BENCHMARK_FILE = re.compile(
    r"benchmark-infer-(?P<precision>[a-z0-9]+)-\w+-pt\d+-(?:cu\d+-)?(?P<device>.+?)(?:-dynamo)?\.csv"
)
_DEVICES = {
    "4090": "rtx-4090",
    "5090": "rtx-5090",
    "pro6000maxq": "rtx-pro-6000-max-q",
}

Point = tuple[str, int]  # (model or architecture, image size)


@dataclass(slots=True)
class _Entry:
    """What the tables say of one model at one image size."""

    numbers: dict[tuple[object, ...], Measurement] = field(default_factory=dict)
    revisions: list[str] = field(default_factory=list)
    top1: float = -1.0  # on ImageNet, else on the first dataset that speaks of it

    def add(self, measurements: Iterable[Measurement], revision: str) -> None:
        """Numbers without a context (params, flops) are kept from the first table only."""
        for measurement in measurements:
            self.numbers.setdefault(_context(measurement), measurement)
        self.revisions.append(revision)


class TimmTables:
    """Gathers rows of several tables; `artifacts` merges them by model and image size."""

    def __init__(self) -> None:
        self._results: dict[Point, _Entry] = {}
        self._benchmarks: dict[Point, _Entry] = {}
        self._pretrained: dict[str, tuple[str, str]] = {}

    @staticmethod
    def recognises(table: TableFile) -> bool:
        """Whether the header is one of timm's."""
        columns = frozenset(table.columns)
        return columns >= RESULTS or columns >= BENCHMARK or columns == PRETRAINING

    def add(self, table: TableFile, row: Row) -> None:
        """Takes in a row. Raises ValueError saying what is wrong with it."""
        model = words(row.cells["model"])
        if model is None:
            raise ValueError("no model name")
        revision = f"{table.path.name}:{row.number}"
        if frozenset(table.columns) == PRETRAINING:
            pretrain = words(row.cells["pretrain"])
            if pretrain is None:
                raise ValueError("no pretraining")
            self._pretrained[model] = (pretrain, revision)
        elif frozenset(table.columns) >= BENCHMARK:
            point, found = (model, _size(row, "infer_img_size")), _benchmark(table, row)
            self._benchmarks.setdefault(point, _Entry()).add(found, revision)
        else:
            point, found = (model, _size(row, "img_size")), _result(table, row)
            entry = self._results.setdefault(point, _Entry())
            entry.add(found, revision)
            accuracy = [m.value for m in found if m.metric == "accuracy"]
            if accuracy and (entry.top1 < 0 or found[0].dataset == "imagenet"):
                entry.top1 = accuracy[0]

    def artifacts(self) -> Iterator[Artifact]:
        """One Artifact for each model and image size, in the order of the tables."""
        names = _names({point: entry.top1 for point, entry in self._results.items()})
        used: set[Point] = set()
        for point, entry in self._results.items():
            model, size = point
            bench = self._benchmarks.get((_architecture(model), size))
            if bench is not None:
                used.add((_architecture(model), size))
                entry.add(bench.numbers.values(), bench.revisions[0])
            yield self._artifact(names[point], point, entry)
        yield from self._leftovers(used)

    def _leftovers(self, used: set[Point]) -> Iterator[Artifact]:
        """Benchmarked points no results table has, and models only a pretraining table names."""
        known = {_architecture(model) for model, _ in self._results}
        left = {p: e for p, e in self._benchmarks.items() if p not in used}
        alone = {point: float(point[1]) for point in left if point[0] not in known}
        names = _names(alone)
        for point, entry in left.items():
            name = names.get(point, f"{point[0]}/{point[1]}")
            yield self._artifact(name, point, entry)
        spoken_of = known | {model for model, _ in (*self._results, *self._benchmarks)}
        for model, (_, revision) in self._pretrained.items():
            if model not in spoken_of:
                yield self._artifact(model, (model, 0), _Entry(revisions=[revision]))

    def _artifact(self, name: str, point: Point, entry: _Entry) -> Artifact:
        model, size = point
        tags = ["timm", *([f"{size}px"] if size else [])]
        if model in self._pretrained:
            tags.append(f"pretrain:{self._pretrained[model][0]}")
        declared: Mapping[str, object] = {
            "task": "image-classification",
            "family": _architecture(model),
            "tags": tuple(tags),
            "output_kind": "classification",
        }
        measurements = tuple(entry.numbers.values())
        return Artifact(name, None, "table", entry.revisions[0], None, declared, measurements)


def dataset_of(file_name: str) -> str:
    """The dataset a results table is about, from its name.

    >>> dataset_of("results-imagenet-real.csv"), dataset_of("results-sketch.csv")
    ('imagenet-real', 'sketch')
    """
    return file_name.lower().removesuffix(".csv").removeprefix("results-")


def device_of(file_name: str) -> tuple[str | None, str | None]:
    """Device and precision of a benchmark table, from its name.

    >>> device_of("benchmark-infer-amp-nchw-pt291-cu128-4090.csv")
    ('rtx-4090', 'amp')
    >>> device_of("benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv")
    ('cpu-i9-10940x', 'fp32')
    """
    match = _BENCHMARK_FILE.fullmatch(file_name.lower())
    if match is None:
        return None, None
    device = match["device"].replace("_", "-")
    return _DEVICES.get(device, device), match["precision"]


def _result(table: TableFile, row: Row) -> list[Measurement]:
    """top1 and top5 are percentages, param_count counts millions with two decimals."""
    dataset, found = dataset_of(table.path.name), []
    for metric, column in (("accuracy", "top1"), ("top5_accuracy", "top5")):
        percent = number(row.cells[column])
        if percent is not None:
            if not 0 <= percent <= 100:
                raise ValueError(f"{column} is {percent}, not a percentage")
            found.append(_declared(table, metric, round(percent / 100, 9), dataset=dataset))
    return [*found, *_rounded(table, row, "params", "param_count", 1e6)]


def _benchmark(table: TableFile, row: Row) -> list[Measurement]:
    """Step time is milliseconds for one whole batch; GMACs are per picture."""
    device, precision = device_of(table.path.name)
    batch = number(row.cells["infer_batch_size"])
    if batch is None or batch < 1 or batch != int(batch):
        raise ValueError(f"infer_batch_size is {row.cells['infer_batch_size']!r}")
    found = []
    for metric, column in (("latency", "infer_step_time"), ("throughput", "infer_samples_per_sec")):
        value = number(row.cells[column])
        if value is not None:
            if value <= 0:
                raise ValueError(f"{column} is {value}")
            found.append(
                _declared(
                    table, metric, value, device=device, batch=int(batch), precision=precision
                )
            )
    return [
        *found,
        *_rounded(table, row, "flops", "infer_gmacs", 2e9),
        *_rounded(table, row, "params", "param_count", 1e6),
    ]


def _rounded(
    table: TableFile, row: Row, metric: str, column: str, scale: float
) -> list[Measurement]:
    """The value with the interval its printed digits stand for; nothing if the cell is empty.

    0.04 GMACs may be anything from 0.035 to 0.045, which matters to a limit on FLOPs.
    """
    value = number(row.cells.get(column))
    if value is None:
        return []
    if value < 0:
        raise ValueError(f"{column} is {value}")
    half = 0.005
    low, middle, high = (
        float(round(v * scale)) for v in (max(0.0, value - half), value, value + half)
    )
    return [_declared(table, metric, middle, low=low, high=high)]


def _declared(
    table: TableFile,
    metric: str,
    value: float,
    *,
    device: str | None = None,
    batch: int | None = None,
    dataset: str | None = None,
    precision: str | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Measurement:
    return Measurement(
        "", metric, value, Provenance.DECLARED, table.path.name, device=device, batch=batch,
        dataset=dataset, precision=precision, low=low, high=high, source=table.path.name,
    )  # fmt: skip


def _context(m: Measurement) -> tuple[object, ...]:
    return (m.metric, m.device, m.batch, m.dataset, m.precision)


def _size(row: Row, column: str) -> int:
    size = number(row.cells[column])
    if size is None or size < 1 or size != int(size):
        raise ValueError(f"{column} is {row.cells[column]!r}")
    return int(size)


def _architecture(model: str) -> str:
    return model.split(".", 1)[0]


def _names(merit: Mapping[Point, float]) -> dict[Point, str]:
    """The plain name for each model's point of highest merit, `name/size` for its others."""
    best: dict[str, Point] = {}
    for point in merit:
        if point[0] not in best or merit[point] > merit[best[point[0]]]:
            best[point[0]] = point
    return {p: p[0] if best[p[0]] == p else f"{p[0]}/{p[1]}" for p in merit}
