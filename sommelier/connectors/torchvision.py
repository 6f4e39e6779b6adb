"""Connector `torchvision`: its pretrained weights as declared rows, none of them downloaded.

What torchvision publishes of each set of weights (accuracy, operations, parameters, size, labels)
stands in its source, which is read as syntax out of a wheel or a folder; nothing is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeGuard

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.dataset_names import dataset_name
from sommelier.connectors.naming import printable
from sommelier.connectors.torchvision_weights import ENUM, Constants, WeightsEntry, entries
from sommelier.connectors.wheel import WheelSource, wheel_file, wheels_at
from sommelier.connectors.wheel_archive import opened
from sommelier.errors import ConnectorError, RejectedModelError, reason
from sommelier.notes import joined
from sommelier.records import Artifact, Measurement, Provenance, Rejection
from sommelier.storage.cache import cache_folder
from sommelier.units import Dimension, format_value

MODELS = ("torchvision", "models")  # the package that states the weights
MAX_SOURCE_BYTES = 2 * 10**6  # of all its modules; in torchvision 0.28 they have 1.2 MB
HALF_DIGIT = 0.0005  # a printed 4.089 may be anything from 4.0885 to 4.0895

_TASKS = {
    "detection": "object-detection",
    "segmentation": "image-segmentation",
    "video": "video-classification",
    "optical_flow": "optical-flow",
}
_ACCURACIES = {"acc@1": "accuracy", "acc@5": "top5_accuracy"}


@dataclass(frozen=True, slots=True)
class _Release:
    """One torchvision: its modules' source by dotted name."""

    name: str
    sources: Mapping[str, bytes]


class TorchvisionConnector:
    """Lists torchvision's pretrained weights with what it publishes of them."""

    name = "torchvision"
    options: Mapping[str, str] = {"cache": "folder where fetched wheels are kept"}

    def describe(self) -> str:
        """What a location is."""
        return (
            "torchvision's source: 'torchvision==0.28.0' fetched by pip, a .whl file, or a folder "
            "that has it"
        )

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact without a path for each set of weights, named builder.WEIGHTS."""
        opt.check(self.name, options, self.options)
        if not locations:
            raise ConnectorError(
                "torchvision needs its source",
                hint="FROM torchvision 'torchvision==0.28.0'",
            )
        cache = opt.path(options, "cache") or cache_folder()
        releases = [release for place in locations for release in _releases(place.strip(), cache)]
        return self._artifacts(releases, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The sets of weights."""
        for item in self.fetch(locations, options=options):
            if isinstance(item, Artifact):
                yield Listing(item.name, str(item.revision))

    def _artifacts(
        self, releases: Sequence[_Release], progress: Progress | None
    ) -> Iterator[Artifact | Rejection]:
        for done, release in enumerate(releases):
            if progress:
                progress(release.name, done, len(releases))
            constants = Constants(release.sources)
            for module in sorted(release.sources):
                if ENUM.encode() not in release.sources[module]:
                    continue
                try:
                    yield from _of_module(module, constants, release.name)
                except RejectedModelError as error:
                    where = printable(f"{release.name}:{module}")
                    yield Rejection(self.name, where, reason(error))
        if progress:
            progress("", len(releases), len(releases))


def _of_module(module: str, constants: Constants, release: str) -> Iterator[Artifact | Rejection]:
    """The rows of a module. Raises RejectedModelError if it cannot be read."""
    for entry in entries(module, constants):
        where = printable(f"{release}:{entry.enum}.{entry.entry}")
        try:
            yield _artifact(module, entry, where)
        except ValueError as error:
            yield Rejection("torchvision", where, str(error))


def _releases(location: str, cache: Path) -> Iterator[_Release]:
    """What a location holds. Raises ConnectorError if that is no torchvision."""
    folder = Path(location).expanduser()
    if not folder.is_dir() and not location.endswith(".whl") and "==" not in location:
        raise ConnectorError(
            f"there is no folder '{location}' (in {Path.cwd()})",
            hint="FROM torchvision 'torchvision==0.28.0', a .whl file, or a folder",
        )
    if folder.is_dir():
        yield _release(location, _in_folder(folder))
        return
    for source in wheels_at(location):
        yield _release(source.text, _in_wheel(source, cache))


def _release(name: str, found: Iterator[tuple[str, bytes]]) -> _Release:
    try:
        sources = dict(found)
    except RejectedModelError as error:
        raise ConnectorError(f"'{name}' cannot be read: {reason(error)}") from error
    if not sources:
        raise ConnectorError(f"'{name}' holds no {'/'.join(MODELS)}")
    return _Release(name, sources)


def _in_wheel(source: WheelSource, cache: Path) -> Iterator[tuple[str, bytes]]:
    """Modules of torchvision.models. Raises RejectedModelError if they are too large in all."""
    with opened(wheel_file(source, cache)) as wheel:
        members = [m for m in wheel.members(".py") if m.parts[: len(MODELS)] == MODELS]
        _check_size(sum(wheel.size(str(member)) for member in members))
        for member in members:
            yield _module(member), wheel.read(str(member), MAX_SOURCE_BYTES)


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The same of a folder: a checkout, or where pip installs to."""
    roots = (folder.joinpath(*MODELS), folder / MODELS[1])
    root = next((root for root in roots if (root / "_api.py").is_file()), roots[0])
    paths = [path for path in sorted(root.rglob("*.py")) if path.is_file()]
    _check_size(sum(path.stat().st_size for path in paths))
    for path in paths:
        yield _module(PurePosixPath(*MODELS) / path.relative_to(root)), path.read_bytes()


def _check_size(total: int) -> None:
    if total > MAX_SOURCE_BYTES:
        size, limit = (format_value(n, Dimension.BYTES) for n in (total, MAX_SOURCE_BYTES))
        raise RejectedModelError(f"its modules have {size}, the limit is {limit}")


def _module(path: PurePath) -> str:
    """torchvision/models/quantization/resnet.py -> quantization.resnet"""
    return ".".join(path.with_suffix("").parts[len(MODELS) :])


def _artifact(module: str, entry: WeightsEntry, revision: str) -> Artifact:
    """The declared row. Raises ValueError saying what the source does not say as a literal."""
    if entry.builder is None:
        raise ValueError(f"no function takes weights of {entry.enum}")
    measurements = tuple(_measurements(entry, revision.partition(":")[0]))
    if not measurements:
        raise ValueError("it states no number that can be read")
    area = module.partition(".")[0]
    task = _TASKS.get(area, "image-classification")
    labels = _labels(entry.meta.get("categories"))
    facts: dict[str, object] = {
        "task": task,
        "family": entry.builder,
        "tags": tuple(_tags(entry, area)),
        "output_kind": "classification" if task.endswith("classification") else None,
        "labels": labels if task.endswith("classification") else None,
        "homepage": entry.url,
        "note": joined(_notes(entry)),
    }
    name = f"{entry.builder}.{entry.entry}"
    declared = {k: v for k, v in facts.items() if isinstance(v, str | tuple) and v}
    return Artifact(name, None, "torchvision", revision, None, declared, measurements)


def _tags(entry: WeightsEntry, area: str) -> Iterator[str]:
    yield "torchvision"
    size = entry.transforms.get("crop_size")
    if isinstance(size, int):
        yield f"{size}px"
    if entry.default:
        yield "default"
    if area == "quantization":
        yield "quantized"


def _labels(categories: object) -> tuple[str, ...]:
    if not isinstance(categories, tuple) or not all(isinstance(c, str) for c in categories):
        return ()
    return categories if len(set(categories)) == len(categories) else ()


def _notes(entry: WeightsEntry) -> Iterator[str]:
    """Licences that weights have of their own, and numbers that are no metric of ours."""
    if isinstance(entry.meta.get("license"), str):
        yield f"licence as stated: {entry.meta['license']}"
    for dataset, metric, value in _stated(entry):
        if metric not in _ACCURACIES:
            yield f"{metric} {value:g} on {dataset}"


def _stated(entry: WeightsEntry) -> Iterator[tuple[str, str, float]]:
    """(dataset, metric, value) as torchvision has them; accuracies in percent."""
    metrics = entry.meta.get("_metrics")
    for dataset, values in metrics.items() if isinstance(metrics, dict) else ():
        for metric, value in values.items() if isinstance(values, dict) else ():
            if _is_number(value):
                yield str(dataset), str(metric), float(value)


def _measurements(entry: WeightsEntry, source: str) -> Iterator[Measurement]:
    """Numbers in base units. _ops are GMACs and _file_size MiB, printed with three decimals."""
    count = entry.meta.get("num_params")
    if _is_number(count) and count >= 0:
        yield _declared("params", float(count), source)
    for metric, key, scale in (("flops", "_ops", 2e9), ("size", "_file_size", 2.0**20)):
        value = entry.meta.get(key)
        if _is_number(value) and value > 0:
            low, middle, high = (
                float(round((value + half) * scale)) for half in (-HALF_DIGIT, 0, HALF_DIGIT)
            )
            yield _declared(metric, middle, source, low=max(0.0, low), high=high)
    for dataset, metric, percent in _stated(entry):
        if metric in _ACCURACIES and 0 <= percent <= 100:
            yield _declared(
                _ACCURACIES[metric], round(percent / 100, 9), source,
                dataset=dataset_name(dataset).lower(),
            )  # fmt: skip


def _declared(
    metric: str,
    value: float,
    source: str,
    *,
    dataset: str | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Measurement:
    return Measurement(
        "", metric, value, Provenance.DECLARED, "torchvision",
        dataset=dataset, low=low, high=high, source=source,
    )  # fmt: skip


def _is_number(value: object) -> TypeGuard[int | float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max  # an integer may have any size, NaN is never less
    )
