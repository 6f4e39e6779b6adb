"""Bits of answers: what they exclude is excluded for certain, and what is asked is found all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.storage import answer_bits
from sommelier.storage.answer_bits import BitFiles, Bits, chosen_code, encoded
from sommelier.storage.label_translation import NO_PARTNER
from tests.storage.index_factories import Shelf, add_models, label_space, probe_set


def answers(rng: np.random.Generator, rows: int, samples: int, classes: int) -> np.ndarray:
    """Rows that mostly give one common answer, as classifiers do; 65535 = no answer."""
    common = rng.integers(0, classes, samples)
    table = np.where(
        rng.random((rows, samples)) < rng.random((rows, 1)),
        rng.integers(0, classes, (rows, samples)),
        common,
    )
    table[rng.random(table.shape) < 0.02] = 0xFFFF
    return table.astype(np.uint16)


@given(
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 150),
    classes=st.sampled_from([2, 10, 1_000, 60_000]),
)
@settings(max_examples=40, deadline=None)
def test_a_row_never_agrees_more_than_its_bits_allow(seed: int, samples: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    table = answers(rng, 30, samples, classes)
    code = chosen_code(table[:20])
    bits = Bits(encoded(code, table), code)
    wanted = table[rng.integers(30)].astype(np.uint32)
    wanted[(wanted == 0xFFFF) | (rng.random(samples) < 0.1)] = NO_PARTNER
    places = np.sort(rng.permutation(30)[:17])
    most = bits.at_most(wanted, places)
    truth = (table[places] == wanted).sum(axis=1)
    assert (most >= truth).all()
    assert (most <= (wanted != NO_PARTNER).sum()).all()


def test_models_that_leave_the_common_answer_are_told_apart_by_most_of_their_bits() -> None:
    rng = np.random.default_rng(0)
    common = rng.integers(0, 1_000, 2_048)
    departs = rng.random((400, 2_048)) < 0.2
    table = np.where(departs, rng.integers(0, 1_000, departs.shape), common).astype(np.uint16)
    code = chosen_code(table)
    bits = Bits(encoded(code, table), code)
    seen = 2_048 - bits.at_most(table[0].astype(np.uint32), np.arange(1, 400))
    differ = (table[1:] != table[0]).sum(axis=1)
    # one of two leaves in 32 %, both and to different answers in 4 %: those are seen half the time
    assert np.mean(seen / differ) > 0.85


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_ranking_down_to_any_count_is_the_exact_one(tmp_path_factory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patch = pytest.MonkeyPatch()
    patch.setattr(answer_bits, "SCREENED_FROM", 8)
    with patch.context():
        shelf = Shelf(tmp_path_factory.mktemp("shelf"))
        probes = probe_set("p", 70)
        shelf.catalog.add_probe_set(probes)
        spaces = [label_space("a", list("uvwxyz")), label_space("b", list("zyxwvu"))]
        for space in spaces:
            shelf.catalog.add_label_space(space)
        table = answers(rng, 60, 70, 6).astype(np.int64)
        table[table == 0xFFFF] = -1
        names = np.where(table < 0, -1, table)
        ids = add_models(shelf.catalog, 60)
        flipped = rng.random(60) < 0.3  # these say the same in the other order of classes
        for row in rng.permutation(60).tolist():
            shown = np.where(names[row] < 0, -1, 5 - names[row]) if flipped[row] else names[row]
            space = spaces[int(flipped[row])].id
            shelf.answer([ids[row]], probes, shown[None], classes=6, label_space_id=space)
        check(shelf, ids, names, rng)
        shelf.catalog.close()


def check(shelf: Shelf, ids: list[str], names: np.ndarray, rng: np.random.Generator) -> None:
    """Candidates of a few references against loops over all answers."""
    for reference in rng.integers(0, len(ids), 3).tolist():
        truth = ((names == names[reference]) & (names >= 0)).sum(axis=1)
        found = shelf.semantics.candidates(ids[reference])
        for least in rng.integers(0, 72, 4).tolist():
            rows, end = found.prefix(least)
            expected = np.lexsort((np.arange(len(ids)), -truth))
            expected = expected[truth[expected] >= least]
            assert rows[:end].tolist() == expected.tolist()
        some = rng.permutation(len(ids))[:5]
        assert found.agreements[found.ranking.positions(some)].tolist() == truth[some].tolist()


def test_a_question_about_near_models_reads_few_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_bits, "SCREENED_FROM", 8)
    rng = np.random.default_rng(1)
    common = rng.integers(0, 100, 512)
    table = np.where(rng.random((400, 512)) < 0.3, rng.integers(0, 100, (400, 512)), common)
    table[:10] = np.where(rng.random((10, 512)) < 0.02, 7, table[0])
    shelf = Shelf(tmp_path)
    probes = probe_set("p", 512)
    shelf.catalog.add_probe_set(probes)
    ids = add_models(shelf.catalog, 400)
    shelf.answer(ids, probes, table, classes=100)
    found = shelf.semantics.candidates(ids[0])
    assert found.at_least(480) == int(((table == table[0]).sum(axis=1) >= 480).sum()) == 10
    assert shelf.semantics._scans.rows_read < 30
    shelf.catalog.close()


# ---- the cache on disk


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_bits, "SCREENED_FROM", 8)


def matches(files: BitFiles, table: np.ndarray) -> int:
    """For how many rows there are bits; all of them right."""
    bits = files.bits(table)
    assert bits is not None
    assert np.array_equal(bits.rows, encoded(bits.code, table[: len(bits.rows)]))
    return len(bits.rows)


@pytest.mark.usefixtures("small")
def test_bits_grow_with_the_file_and_another_process_takes_them_as_they_are(tmp_path: Path) -> None:
    table = answers(np.random.default_rng(0), 1_000, 33, 50)
    files = BitFiles(tmp_path, 33)
    assert BitFiles(tmp_path, 33).bits(table[:7]) is None
    assert matches(files, table[:100]) == 100
    assert matches(files, table[:104]) == 100  # a few rows are not worth a write
    assert matches(files, table[:200]) == 200
    written = (tmp_path / answer_bits.HEADER).stat().st_mtime_ns
    assert matches(BitFiles(tmp_path, 33), table[:200]) == 200
    assert (tmp_path / answer_bits.HEADER).stat().st_mtime_ns == written
    assert matches(files, table) == 1_000  # ten times as large: the code is chosen anew
    assert len(list(tmp_path.glob("answers-bits-*.bin"))) == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("broken", ["replaced answers", "cut bits", "no code", "bad header"])
def test_bits_that_do_not_fit_the_answers_are_made_anew(tmp_path: Path, broken: str) -> None:
    table = answers(np.random.default_rng(0), 100, 33, 50)
    assert matches(BitFiles(tmp_path, 33), table) == 100
    (bits,) = tmp_path.glob("answers-bits-*.bin")
    if broken == "replaced answers":
        table = answers(np.random.default_rng(1), 100, 33, 50)
    elif broken == "cut bits":
        bits.write_bytes(bits.read_bytes()[:-8])
    elif broken == "no code":
        next(tmp_path.glob("answers-code-*.npy")).unlink()
    else:
        (tmp_path / answer_bits.HEADER).write_text(json.dumps({"version": 0}))
    assert matches(BitFiles(tmp_path, 33), table) == 100


@pytest.mark.usefixtures("small")
def test_without_a_place_for_bits_every_answer_is_read(tmp_path: Path) -> None:
    table = answers(np.random.default_rng(0), 100, 33, 50)
    assert BitFiles(tmp_path / "missing", 33).bits(table) is None
