"""Every pair that shares a usable probe set is counted on the best one: against brute force."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sommelier.records import ProbeSet
from sommelier.storage.candidates import Candidates
from tests.storage.index_factories import Shelf, add_models, label_space, probe_set

PETS = label_space("pets", ["cat", "dog", "fish"])
MORE_PETS = label_space("more", ["background", "Cat", "dog", "FISH"])
NAMES = {PETS.id: ("cat", "dog", "fish"), MORE_PETS.id: ("background", "cat", "dog", "fish")}

# how a model answers: (label space, classes), or the width of its vectors
KINDS: tuple[tuple[str | None, int] | int, ...] = (
    (PETS.id, 3), (MORE_PETS.id, 4), (None, 3), (None, 4), 2, 5,
)  # fmt: skip
Kind = tuple[str | None, int] | int
SAMPLES = (7, 12, 5)


@dataclass(frozen=True)
class World:
    """answered[m, p] : whether model m answered probe set p; answers[m, p] : what."""

    kinds: list[Kind]
    answered: np.ndarray
    synthetic: list[bool]
    answers: dict[tuple[int, int], np.ndarray]

    @property
    def probe_sets(self) -> list[ProbeSet]:
        # of different populations: nothing here follows by transitivity
        return [
            probe_set(f"p{p}", samples, synthetic=self.synthetic[p])
            for p, samples in enumerate(SAMPLES)
        ]

    def ranked(self) -> list[int]:
        """Probe sets by the stated rule: real, most models, most samples, then the later id."""
        members = self.answered.sum(axis=0)
        return sorted(range(3), key=lambda p: (self.synthetic[p], -members[p], -SAMPLES[p], -p))


def world(seed: int, models: int) -> World:
    rng = np.random.default_rng(seed)
    kinds = [KINDS[k] for k in rng.integers(0, len(KINDS), models)]
    answered = rng.random((models, 3)) < 0.6
    answers: dict[tuple[int, int], np.ndarray] = {}
    base = rng.normal(size=(max(SAMPLES), 5)).astype(np.float32)
    for m, p in np.argwhere(answered).tolist():
        kind = kinds[m]
        if isinstance(kind, int):
            scale = 1 + rng.choice([0, 0.02, 0.2], SAMPLES[p])[:, None]
            answers[m, p] = (base[: SAMPLES[p], :kind] * scale).astype(np.float32)
        else:
            answers[m, p] = rng.integers(-1, kind[1], SAMPLES[p])
    return World(kinds, answered, (rng.random(3) < 0.4).tolist(), answers)


def comparable(one: Kind, other: Kind) -> bool:
    if isinstance(one, int) or isinstance(other, int):
        return one == other
    return (one[0] is not None and other[0] is not None) or one[1] == other[1]


def agreements(there: World, p: int, reference: int, candidate: int) -> int:
    one, other = there.answers[reference, p], there.answers[candidate, p]
    kinds = there.kinds[reference], there.kinds[candidate]
    if isinstance(kinds[0], int):
        distance = np.linalg.norm(one.astype(float) - other.astype(float), axis=1)
        return int(np.sum(distance <= 0.05 * np.linalg.norm(one.astype(float), axis=1)))
    spaces = [kind[0] for kind in kinds]
    named = None not in spaces
    words = [
        [None if a < 0 else NAMES[space][a] if named else a for a in answers]
        for space, answers in zip(spaces, (one.tolist(), other.tolist()), strict=True)
    ]
    return sum(a is not None and a == b for a, b in zip(*words, strict=True))


def expected(there: World, reference: int) -> dict[int, tuple[str, int]]:
    """Model -> (probe set, agreements), by looping over pairs."""
    found = {}
    for candidate in range(len(there.kinds)):
        if not comparable(there.kinds[reference], there.kinds[candidate]):
            continue
        for p in there.ranked():
            if there.answered[reference, p] and there.answered[candidate, p]:
                found[candidate] = (f"probes-p{p}", agreements(there, p, reference, candidate))
                break
    return found


def filled(folder: Path, there: World, order: np.random.Generator) -> tuple[Shelf, list[str]]:
    """A shelf of that world, its sketches stored in a random order."""
    shelf = Shelf(folder)
    for space in (PETS, MORE_PETS):
        shelf.catalog.add_label_space(space)
    sets = there.probe_sets
    for place in order.permutation(3):
        shelf.catalog.add_probe_set(sets[place])
    ids = add_models(shelf.catalog, len(there.kinds))
    for m, p in order.permutation(np.argwhere(there.answered)).tolist():
        kind = there.kinds[m]
        space, count = (None, None) if isinstance(kind, int) else kind
        shelf.answer(
            [ids[m]], sets[p], there.answers[m, p][None], classes=count, label_space_id=space
        )
    return shelf, ids


def told(shelf: Shelf, found: Candidates) -> list[tuple[str, str, int]]:
    """(model, probe set, agreements) of every row of every part."""
    return [
        (str(shelf.resources.ids[row]), str(part.probe_set_id), int(count))
        for part in found.parts
        for row, count in zip(part.rows.tolist(), part.agreements.tolist(), strict=True)
    ]


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), models=st.integers(1, 9))
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
def test_every_pair_is_counted_once_on_the_best_usable_probe_set(tmp_path_factory, seed, models):
    there = world(seed, models)
    shelf, ids = filled(tmp_path_factory.mktemp("pairs"), there, np.random.default_rng(seed))
    for reference in range(models):
        found = shelf.semantics.candidates(ids[reference])
        rows = told(shelf, found)
        assert len({model for model, _, _ in rows}) == len(rows)
        wanted = expected(there, reference)
        if there.answered[reference].any():
            assert sorted(rows) == sorted((ids[c], *answer) for c, answer in wanted.items())
            assert sum(found.incomparable.values()) == models - len(rows)
        for part in found.parts:
            assert (np.diff(part.agreements) <= 0).all()
            assert len(part) or part is found
        for candidate in range(models):
            pair = shelf.semantics.agreement(ids[reference], ids[candidate])
            answer = (pair.probe_set_id, pair.agreements) if pair.samples else None
            assert answer == wanted.get(candidate)
        edges = shelf.semantics.edges(ids[reference], 0.95)
        assert {e.candidate_id: (e.probe_set_id, e.agreements) for e in edges} == {
            ids[c]: answer for c, answer in wanted.items() if c != reference
        }
        assert [e.lower for e in edges] == sorted((e.lower for e in edges), reverse=True)
    shelf.catalog.close()


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
def test_the_order_of_arrival_changes_nothing(tmp_path_factory, seed):
    there = world(seed, 7)
    answers = []
    for order in (1, 2):
        shelf, ids = filled(tmp_path_factory.mktemp("order"), there, np.random.default_rng(order))
        found = [shelf.semantics.candidates(model_id) for model_id in ids]
        answers.append([(told(shelf, f), f.incomparable) for f in found])
        shelf.catalog.close()
    assert answers[0] == answers[1]


@pytest.fixture
def shelf(tmp_path: Path):
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.catalog.close()


def three_sets(shelf: Shelf) -> list[str]:
    """0 answered a and b; 1 to 3 a; 4 b; 5 c; 6 nothing; 3 has other classes on a, not on b."""
    sets = {name: probe_set(name, 4) for name in "abc"}
    for probes in sets.values():
        shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 7)
    row = [[0, 1, 2, 0]]
    for name, members in (("a", (0, 1, 2)), ("b", (0, 3, 4)), ("c", (5,))):
        shelf.answer([ids[m] for m in members], sets[name], row * len(members), classes=3)
    shelf.answer([ids[3]], sets["a"], row, classes=9)
    return ids


def test_what_other_probes_make_comparable_is_not_called_incomparable(shelf):
    ids = three_sets(shelf)
    found = shelf.semantics.candidates(ids[0])
    assert [part.probe_set_id for part in found.parts] == ["probes-a", "probes-b"]
    assert told(shelf, found.others[0]) == [(ids[m], "probes-b", 4) for m in (3, 4)]
    assert found.incomparable == {
        "analysed on other probe sets only": 1,
        "not analysed for equivalence": 1,
    }


def test_an_asked_probe_set_and_random5_keep_to_one(shelf):
    ids = three_sets(shelf)
    asked = shelf.semantics.candidates(ids[0], probe_set_id="probes-b")
    assert {model for model, _, _ in told(shelf, asked)} == {ids[m] for m in (0, 3, 4)}
    assert asked.others == ()
    assert asked.incomparable["analysed on other probe sets only"] == 3
    peers = shelf.semantics.candidates(ids[0], mode="random5")
    assert (len(peers), peers.others) == (3, ())
    assert sum(peers.incomparable.values()) == 4


def test_bounds_start_from_every_probe_set_the_reference_answered(shelf):
    """4 is reached from b, over 2, although a is the best probe set of the reference."""
    sets = {
        name: probe_set(name, 20, dataset_id=dataset)
        for name, dataset in (("a", "photos"), ("b", "digits"), ("c", "digits"))
    }
    for probes in sets.values():
        shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 5)
    for name, members in (("a", (0, 1, 3)), ("b", (0, 2)), ("c", (2, 4))):
        table = np.zeros((len(members), 20), int)
        shelf.answer([ids[m] for m in members], sets[name], table, classes=3)
    found = shelf.semantics.candidates(ids[0])
    assert (found.transitive, [part.probe_set_id for part in found.others]) == (None, ["probes-b"])
    bounds = found.others[0].transitive
    at = shelf.resources.ids
    assert [at[bounds.rows[0]], at[bounds.low_via[0]], at[bounds.high_via[0]]] == [
        ids[4], ids[2], ids[2],
    ]  # fmt: skip
    assert found.incomparable == {}
    methods = Counter(edge.method for edge in shelf.semantics.edges(ids[0], 0.95))
    assert methods == {"sketch": 3, "transitive": 1}
