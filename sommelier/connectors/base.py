"""What every connector is: something that finds models and states what their source says.

A connector never runs, imports or unpickles what it finds. A file that cannot be accepted is
yielded as a Rejection with its reason and the rest goes on; ConnectorError is for a statement that
cannot work as written (no such place, unknown option, a card with a mistake).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sommelier.records import Artifact, Rejection

Progress = Callable[[str, int, int | None], None]
"""Called as progress(what, done, total or None)."""

DECLARED_KEYS: frozenset[str] = frozenset(
    {
        "task", "family", "license", "tags", "labels", "label_space", "preprocessing",
        "output_kind", "producer", "created", "note", "homepage", "external_data",
        "inputs", "outputs", "opset", "operators",
    }
)  # fmt: skip
"""Keys of Artifact.declared.

task, family, license (SPDX), label_space (its name), output_kind (a value of OutputKind), producer,
created (ISO date), note, homepage : str.  tags, labels : tuple of str.  preprocessing : tuple of
(step, arguments).  external_data : list of str, files that belong to the model's file.
inputs, outputs : tuple of TensorSpec, opset : int, operators : {operator: count}, for rows without
a file.
"""


@dataclass(frozen=True, slots=True)
class Listing:
    """A model a connector could fetch. size_bytes is None where it is not known beforehand."""

    name: str
    revision: str
    size_bytes: int | None = None


@runtime_checkable
class Connector(Protocol):
    """A source of models. Made without arguments; holds no state between calls."""

    @property
    def name(self) -> str:
        """The word after FROM, which is also the name of its entry point."""

    @property
    def options(self) -> Mapping[str, str]:
        """What USING may set: {option: what it does}."""

    def describe(self) -> str:
        """One sentence: what a location is for this connector."""

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """Every model at the locations, in a stable order; unacceptable ones as Rejection.

        Raises ConnectorError before the first model if a location or an option is unusable.
        """

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing | Rejection]:
        """What `fetch` would look at, without reading the models themselves. A Rejection is of one
        of several locations that cannot be read."""
