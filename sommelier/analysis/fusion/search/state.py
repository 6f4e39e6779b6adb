"""Where a search stands, kept on disk after every step so that a kill costs one step at most.

The JSON file is replaced as a whole and names the weights that belong to it, each file of which is
complete before it is named and never changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.fusion.abs_graph import AbsGraph, Capacity
from sommelier.errors import UnusableStateError, first_line
from sommelier.fusion_records import FusionStep

Weights = Mapping[str, NDArray[Any]]

FORMAT = 3
ELITES = 16  # GMorph 4.3.1: what the list holds; the oldest goes first
NEAREST = 2  # how many of the near are remembered
SLOWER = 1.15  # predicted cost of a finalist over that of the one before
STATE = "search.json"


@dataclass(frozen=True, slots=True)
class Elite:
    """A candidate that met the search's tolerance, or came near. share : predicted cost over the
    originals'.

    drop : of the worst task on the `select` samples.
    """

    step: int
    graph: AbsGraph = field(repr=False)
    weights: Weights = field(repr=False)
    share: float
    drop: float


@dataclass(frozen=True, slots=True)
class State:
    """A search between two steps. best : the cheapest elite so far, kept when the list forgets it.

    near : what lost more than an elite may and little enough to be a finalist after training on,
    the least loss first.
    tried : keys of candidates that were trained. failed : capacities of what lost too much, by
    step. blamed : how often what reads what (`Outcome.edges`) was part of such a failure since it
    was last part of an elite. floor : the largest share of what has failed and was cheaper than the
    incumbent; 0 for none. idle : steps since the last elite. last_drop : of the last candidate.
    certified : finalists that were held against the threshold so far, in this run of the search
    and in those before.
    """

    step: int = 0
    epochs: int = 0
    elapsed_ms: float = 0.0
    idle: int = 0
    last_drop: float = 0.0
    elites: tuple[Elite, ...] = ()
    best: Elite | None = None
    near: tuple[Elite, ...] = ()
    tried: frozenset[str] = frozenset()
    failed: Mapping[str, Capacity] = field(default_factory=dict)
    blamed: Mapping[str, int] = field(default_factory=dict)
    floor: float = 0.0
    trace: tuple[FusionStep, ...] = ()
    certified: int = 0

    @property
    def share(self) -> float:
        """Predicted cost of the incumbent; 1 while it is the originals."""
        return 1.0 if self.best is None else self.best.share

    @property
    def kept(self) -> tuple[Elite, ...]:
        """All elites that are remembered, the oldest first."""
        found = {e.step: e for e in (*([] if self.best is None else [self.best]), *self.elites)}
        return tuple(found[step] for step in sorted(found))

    def with_elite(self, elite: Elite) -> State:
        best = elite if self.best is None or elite.share < self.best.share else self.best
        return replace(self, elites=(*self.elites, elite)[-ELITES:], best=best)

    def with_near(self, candidate: Elite) -> State:
        near = sorted((*self.near, candidate), key=lambda e: (e.drop, e.share))
        return replace(self, near=tuple(near[:NEAREST]))


class StateFolder:
    """A folder that holds one search. key : of everything that decides its result."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: State) -> None:
        """Replaces what the folder holds; a kill at any time leaves the one or the other."""
        weighed = (*state.kept, *state.near)
        for elite in weighed:
            if not self._weights(elite.step).exists():
                self._write_weights(elite)
        text = json.dumps({"format": FORMAT, "key": self.key, **_plain(state)})
        _replace(self.folder / STATE, lambda stream: stream.write(text.encode()))
        self._sweep(weighed)

    def _sweep(self, kept: Iterable[Elite]) -> None:
        """Deletes weights of others, which a later step of the same number must not take for its
        own."""
        names = {self._weights(elite.step).name for elite in kept}
        for path in self.folder.glob("step*.npz"):
            if path.name not in names:
                path.unlink()

    def load(self, original: AbsGraph) -> State | None:
        """The state that was saved last; None in a fresh folder.

        Raises UnusableStateError where the folder holds another search, or none that can be read.
        """
        path = self.folder / STATE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._sweep(())  # of a search that never saved its state
            return None
        except ValueError as error:
            raise UnusableStateError(f"{path} cannot be read: {error}", hint="delete it") from error
        if content.get("format") != FORMAT or content.get("key") != self.key:
            raise UnusableStateError(
                f"{self.folder} holds the search of other models, samples or options",
                hint="continue it with what it was begun with, or choose another folder",
            )
        try:
            state = self._restored(content, original)
        except (KeyError, TypeError, ValueError, OSError, EOFError, BadZipFile) as error:
            raise UnusableStateError(
                f"{self.folder} cannot be read: {first_line(error)}", hint="delete it"
            ) from error
        self._sweep((*state.kept, *state.near))
        return state

    def _restored(self, content: Mapping[str, Any], original: AbsGraph) -> State:
        elites = {e["step"]: self._elite(e, original) for e in content["kept"]}
        near = tuple(self._elite(e, original) for e in content["near"])
        failed = {n: _capacity(values) for n, values in content["failed"].items()}
        return State(
            content["step"], content["epochs"], content["elapsed_ms"], content["idle"],
            content["last_drop"], tuple(elites[step] for step in content["elites"]),
            None if content["best"] is None else elites[content["best"]], near,
            frozenset(content["tried"]), failed, content["blamed"],
            content["floor"],
            tuple(FusionStep(**step) for step in content["trace"]),
            content.get("certified", 0),
        )  # fmt: skip

    def _elite(self, content: Mapping[str, Any], original: AbsGraph) -> Elite:
        with np.load(self._weights(content["step"]), allow_pickle=False) as stored:
            names = stored["names"].tolist()
            weights = {name: stored[f"weight_{i}"] for i, name in enumerate(names)}
        graph = original.with_edges(content["edges"])
        return Elite(content["step"], graph, weights, content["share"], content["drop"])

    def _write_weights(self, elite: Elite) -> None:
        # names are stored apart, for a weight may be called 'file' or hold a slash
        numbered = {f"weight_{i}": array for i, array in enumerate(elite.weights.values())}
        names = np.array([*elite.weights], str)
        _replace(
            self._weights(elite.step),
            lambda stream: np.savez(stream, allow_pickle=False, names=names, **numbered),
        )

    def _weights(self, step: int) -> Path:
        return self.folder / f"step{step}.npz"


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _plain(state: State) -> dict[str, Any]:
    """The state as JSON has it, without weights."""
    return {
        "step": state.step,
        "epochs": state.epochs,
        "elapsed_ms": state.elapsed_ms,
        "idle": state.idle,
        "last_drop": state.last_drop,
        "certified": state.certified,
        "kept": [_named(elite) for elite in state.kept],
        "near": [_named(candidate) for candidate in state.near],
        "elites": [elite.step for elite in state.elites],
        "best": None if state.best is None else state.best.step,
        "tried": sorted(state.tried),
        "blamed": dict(state.blamed),
        "floor": state.floor,
        "failed": {name: asdict(capacity) for name, capacity in state.failed.items()},
        "trace": [asdict(step) for step in state.trace],
    }


def _named(elite: Elite) -> dict[str, Any]:
    return {
        "step": elite.step,
        "edges": elite.graph.edges(),
        "share": elite.share,
        "drop": elite.drop,
    }


def _capacity(values: Mapping[str, Any]) -> Capacity:
    return Capacity(
        values["total"], tuple(values["per_task"]), tuple(values["specific"]), values["shared"]
    )
