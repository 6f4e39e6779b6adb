"""Connector `torchvision`: its pretrained weights as declared rows, none of them downloaded.

What torchvision publishes of each set of weights (accuracy, operations, parameters, size, labels)
stands in its source, which is read as syntax out of a wheel or a folder; nothing is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeGuard

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.dataset_names import dataset_name
from sommelier.connectors.naming import printable
from sommelier.connectors.torchvision_weights import Constants, WeightsEntry, entries, parsed
from sommelier.connectors.wheel import wheel_file, wheels_at
from sommelier.connectors.wheel_archive import opened
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.records import Artifact, Measurement, Provenance, Rejection
from sommelier.storage.cache import cache_folder

MODELS = ("torchvision", "models")  # the package that states the weights
MAX_SOURCE_BYTES = 4 << 20
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
    """One torchvision: its modules' source by dotted name, and what cannot be parsed."""

    name: str
    constants: Constants
    broken: tuple[Rejection, ...]


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
                "IMPORT FROM torchvision needs its source",
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
            yield from release.broken
            for module in sorted(release.constants.modules):
                for entry in entries(module, release.constants):
                    where = printable(f"{release.name}:{entry.enum}.{entry.entry}")
                    try:
                        yield _artifact(module, entry, where)
                    except ValueError as error:
                        yield Rejection(self.name, where, str(error))
        if progress:
            progress("", len(releases), len(releases))


def _releases(location: str, cache: Path) -> Iterator[_Release]:
    """What a location holds. Raises ConnectorError if that is no torchvision."""
    folder = Path(location).expanduser()
    if folder.is_dir():
        yield _release(location, dict(_in_folder(folder)))
        return
    if not location.endswith(".whl") and "==" not in location:
        raise ConnectorError(
            f"there is no folder '{location}' (in {Path.cwd()})",
            hint="FROM torchvision 'torchvision==0.28.0', a .whl file, or a folder",
        )
    for source in wheels_at(location):
        try:
            with opened(wheel_file(source, cache)) as wheel:
                found = {
                    member: wheel.read(str(member), MAX_SOURCE_BYTES)
                    for member in wheel.members(".py")
                    if member.parts[:2] == MODELS
                }
        except RejectedModelError as error:
            raise ConnectorError(f"'{source.text}' cannot be read: {error.message}") from error
        yield _release(source.text, {_module(path): content for path, content in found.items()})


def _release(name: str, sources: Mapping[str, bytes]) -> _Release:
    if not sources:
        raise ConnectorError(f"'{name}' holds no {'/'.join(MODELS)}")
    modules, broken = {}, []
    for module, content in sources.items():
        try:
            modules[module] = parsed(content)
        except RejectedModelError as error:
            broken.append(Rejection("torchvision", printable(f"{name}:{module}"), error.message))
    return _Release(name, Constants(modules), tuple(broken))


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Modules of torchvision.models below a folder: a checkout, or where pip installs to."""
    roots = (folder.joinpath(*MODELS), folder / MODELS[1])
    root = next((root for root in roots if (root / "_api.py").is_file()), roots[0])
    for path in sorted(root.rglob("*.py")):
        if path.is_file() and path.stat().st_size <= MAX_SOURCE_BYTES:
            yield _module(PurePosixPath(*MODELS) / path.relative_to(root)), path.read_bytes()


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
        "note": "; ".join(_notes(entry)),
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
    if _is_number(count):
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
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
