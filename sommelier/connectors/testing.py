"""The contract of connectors as checks that anyone may run over a connector of their own.

    check_connector(MyConnector(), Sample(("./models",), nowhere="./nowhere"))

A check raises ContractError, an AssertionError that says which promise is broken and by what.
Nothing here needs pytest; with it, parametrise a test over CHECKS to see each promise by name.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise, zip_longest
from pathlib import Path

from sommelier.connectors.base import DECLARED_KEYS, Connector, Listing
from sommelier.connectors.places import Placed
from sommelier.connectors.search import Searchable
from sommelier.errors import ConnectorError
from sommelier.metrics import METRICS
from sommelier.records import Artifact, OutputKind, Provenance, Rejection, TensorSpec

HEAVY = ("torch", "onnxruntime", "tensorflow", "onnx", "pandas", "duckdb", "numpy")
"""What importing and making a connector must not load: every start of the shell would wait."""


class ContractError(AssertionError):
    """A connector breaks a promise that imports rely on."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a connector finds models in a test: at least one acceptable and one that is not.

    nowhere : a location of the same form that leads to nothing; its refusal has to name it.
    """

    locations: tuple[str, ...]
    nowhere: str
    options: Mapping[str, object] = field(default_factory=dict)


Check = Callable[[Connector, Sample], None]
Found = list[Artifact | Rejection]


def check_connector(connector: Connector, sample: Sample) -> None:
    """Raises ContractError at the first promise of the contract that the connector breaks."""
    for check in CHECKS:
        check(connector, sample)


def describes_itself(connector: Connector, _: Sample) -> None:
    """It has the attributes of a Connector, a name and a sentence for each thing it can do.

    Where it is Placed, its place is one of its options; where Searchable, its facts can be asked.
    """
    _require(isinstance(connector, Connector), f"{type(connector).__name__} is no Connector")
    _require(connector.name.isidentifier(), f"the name {connector.name!r} is no word of a FROM")
    _require(bool(connector.describe().strip()), "describe() says nothing")
    for option, text in connector.options.items():
        _require(bool(text.strip()), f"option '{option}' is not described")
    if isinstance(connector, Placed):
        _require(
            connector.place in connector.options,
            f"its place is '{connector.place}', which is none of its options: "
            f"{', '.join(connector.options) or 'it has none'}",
        )
    if isinstance(connector, Searchable):
        for fact, kind in connector.facts.items():
            _require(fact.isidentifier(), f"the fact {fact!r} is no word of a WHERE")
            _require(
                kind in (str, float, tuple), f"the fact '{fact}' is {kind}, not str, float or tuple"
            )


def yields_artifacts_and_rejections(connector: Connector, sample: Sample) -> None:
    """What is good comes as Artifact, what is not as Rejection with its reason; none is lost."""
    found = _fetch(connector, sample)
    kinds = {type(item) for item in found}
    _require(
        kinds == {Artifact, Rejection},
        "the sample must yield an Artifact and a Rejection at least, and nothing else; it yields "
        f"{', '.join(sorted(kind.__name__ for kind in kinds)) or 'nothing'}",
    )
    for item in found:
        _require(item.source == connector.name, f"the source of {item} is not '{connector.name}'")
        _require(bool(item.revision), f"{item} does not say where exactly it comes from")
        if isinstance(item, Rejection):
            _require(bool(item.reason.strip()), f"{item} gives no reason")
        else:
            _require(bool(item.name.strip()), f"{item} has no name")
            _require(_is_there(item), f"there is no file {item.path}")


def declares_facts_by_known_names(connector: Connector, sample: Sample) -> None:
    """Artifact.declared has keys of DECLARED_KEYS only, with values of their types."""
    for item in _artifacts(connector, sample):
        for key, value in item.declared.items():
            _require(
                key in DECLARED_KEYS,
                f"{item.name} declares '{key}', which means nothing here; known: "
                f"{', '.join(sorted(DECLARED_KEYS))}",
            )
            fits = key not in _TYPES or _TYPES[key](value)
            _require(fits, f"{item.name} declares {key} = {value!r}: see DECLARED_KEYS")


def states_numbers_as_declared(connector: Connector, sample: Sample) -> None:
    """Numbers are of known metrics, in base units, possible, and declared: nobody measured them."""
    for item in _artifacts(connector, sample):
        for number in item.measurements:
            metric = METRICS.get(number.metric)
            if metric is None:
                raise ContractError(f"'{number.metric}' of {item.name} is no metric")
            _require(
                metric.allows(number.value),
                f"{item.name} declares {number.metric} = {number.value}, which cannot be: base "
                "units are bytes, FLOPs, ms and fractions",
            )
            _require(
                number.provenance is Provenance.DECLARED,
                f"{number.metric} of {item.name} is said to be {number.provenance.value}",
            )
            _require(bool(number.method), f"{number.metric} of {item.name} does not say by whom")


def sends_artifacts_to_workers(connector: Connector, sample: Sample) -> None:
    """What it yields survives pickling: models are inspected in another process."""
    for item in _fetch(connector, sample):
        _require(pickle.loads(pickle.dumps(item)) == item, f"{item} is changed by pickling")


def finds_the_same_twice(connector: Connector, sample: Sample) -> None:
    """The same import again finds the same in the same order, also while another is under way."""
    first = _fetch(connector, sample)
    _require(first == _fetch(connector, sample), "a second fetch finds something else")
    together = [
        connector.fetch(sample.locations, options=sample.options, progress=None) for _ in range(2)
    ]
    for one, other in zip_longest(*together):
        _require(one == other, f"two fetches at once disturb each other: {one} and {other}")


def stops_when_enough_is_found(connector: Connector, sample: Sample) -> None:
    """LIMIT stops after some models: what is not asked for any more is dropped without an error."""
    found = connector.fetch(sample.locations, options=sample.options, progress=None)
    next(found, None)
    try:
        if isinstance(found, Generator):
            found.close()  # what is raised when one is only dropped, Python prints and forgets
    except Exception as error:
        raise ContractError(f"dropped after its first model, fetch fails: {error!r}") from error
    del found
    _fetch(connector, sample)


def lists_what_it_fetches(connector: Connector, sample: Sample) -> None:
    """Every accepted model is in the listing, under its name and with its size where known."""
    found = connector.list(sample.locations, options=sample.options)
    listed = [item for item in found if isinstance(item, Listing)]
    missing = {item.name for item in _artifacts(connector, sample)} - {i.name for i in listed}
    _require(not missing, f"fetched but not listed: {', '.join(sorted(missing))}")
    for item in listed:
        _require(bool(item.revision), f"{item} does not say where exactly it comes from")
        _require(item.size_bytes is None or item.size_bytes >= 0, f"the size of {item} cannot be")


def reports_progress_to_its_end(connector: Connector, sample: Sample) -> None:
    """progress(what, done, total) counts up, and its last call has done == total."""
    calls: list[tuple[str, int, int | None]] = []

    def note(what: str, done: int, total: int | None) -> None:
        calls.append((what, done, total))

    list(connector.fetch(sample.locations, options=sample.options, progress=note))
    _require(bool(calls), "progress was never called")
    _require(all(a[1] <= b[1] for a, b in pairwise(calls)), f"progress counts back: {calls}")
    _require(calls[-1][1] == calls[-1][2], f"progress ends at {calls[-1]}, not at its total")


def refuses_an_unknown_option(connector: Connector, sample: Sample) -> None:
    """A misspelt option is refused before the first model, with the nearest name."""
    known = next(iter(connector.options), None)
    wrong = "no_such_option" if known is None else f"{known}s"
    error = _refusal(connector, sample.locations, {**sample.options, wrong: "x"}, f"{wrong} = 'x'")
    _require(
        known is None or known in error.suggestions,
        f"'{wrong}' is refused without suggesting '{known}' (options.check does it)",
    )


def refuses_a_location_that_leads_nowhere(connector: Connector, sample: Sample) -> None:
    """A place that is not there is a ConnectorError that names it, before the first model."""
    error = _refusal(connector, (sample.nowhere,), sample.options, f"location '{sample.nowhere}'")
    _require(sample.nowhere in str(error), f"the refusal does not name the location: {error}")


def refuses_to_start_without_a_location(connector: Connector, sample: Sample) -> None:
    """No location at all is refused with an example of one; a place may stand for all it has."""
    place = connector.place if isinstance(connector, Placed) else None
    options = {name: value for name, value in sample.options.items() if name != place}
    error = _refusal(connector, (), options, "no location")
    _require(
        f"FROM {connector.name}" in str(error.hint),
        f"the hint shows no example such as \"FROM {connector.name} '...'\", it is {error.hint!r}",
    )


def loads_nothing_heavy(connector: Connector, _: Sample) -> None:
    """Importing and making it loads no library for neural networks, tables or arrays."""
    made = type(connector)
    program = (
        f"import importlib, sys; sys.path[:] = {sys.path!r}\n"
        f"getattr(importlib.import_module({made.__module__!r}), {made.__name__!r})()\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    _require(done.returncode == 0, f"{made.__name__} cannot be imported and made: {done.stderr}")
    loaded = done.stdout.strip()
    _require(not loaded, f"importing it loads {loaded}: import them where they are used")


CHECKS: tuple[Check, ...] = (
    describes_itself,
    yields_artifacts_and_rejections,
    declares_facts_by_known_names,
    states_numbers_as_declared,
    sends_artifacts_to_workers,
    finds_the_same_twice,
    stops_when_enough_is_found,
    lists_what_it_fetches,
    reports_progress_to_its_end,
    refuses_an_unknown_option,
    refuses_a_location_that_leads_nowhere,
    refuses_to_start_without_a_location,
    loads_nothing_heavy,
)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ContractError(otherwise)


def _fetch(connector: Connector, sample: Sample) -> Found:
    return list(connector.fetch(sample.locations, options=sample.options, progress=None))


def _artifacts(connector: Connector, sample: Sample) -> list[Artifact]:
    return [item for item in _fetch(connector, sample) if isinstance(item, Artifact)]


def _refusal(
    connector: Connector, locations: tuple[str, ...], options: Mapping[str, object], asked: str
) -> ConnectorError:
    """The ConnectorError that comes before the first model, at the call or at the first step."""
    try:
        first = next(connector.fetch(locations, options=options, progress=None), None)
    except ConnectorError as error:
        return error
    except Exception as error:
        raise ContractError(f"{asked} is refused by {error!r}, not by a ConnectorError") from error
    raise ContractError(f"{asked} is not refused by a ConnectorError; the first item is {first}")


def _is_there(item: Artifact) -> bool:
    """A file; what is to be converted may be a folder."""
    if item.path is None:
        return True
    return item.path.is_file() or (item.conversion is not None and item.path.is_dir())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(date.fromisoformat(value[:10]))
    except ValueError:
        return False


def _are_files(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, str) and Path(item).is_file() for item in value
    )


def _are_tensors(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, TensorSpec) for item in value)


def _are_counts(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(count, int) for key, count in value.items()
    )


_TYPES: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(
        ("task", "family", "license", "label_space", "producer", "note", "homepage"), _is_text
    ),
    **dict.fromkeys(("tags", "labels"), _are_texts),
    **dict.fromkeys(("inputs", "outputs"), _are_tensors),
    "output_kind": lambda value: value in {kind.value for kind in OutputKind},
    "created": _is_date,
    "external_data": _are_files,
    "opset": lambda value: isinstance(value, int) and value > 0,
    "operators": _are_counts,
}
"""What DECLARED_KEYS says of the values, as far as it can be checked."""
