"""CORR over real sketches: transitive rows, synthetic and held-in probes, positions, several
references, and what the footer says of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from sommelier.records import Dataset, LabelSpace, ModelRecord, OutputSketch, ProbeSet
from tests.engine.conftest import SAMPLES, Bench


def test_an_empty_catalog_answers_every_question_it_can(bench: Bench) -> None:
    assert len(bench.ask("SELECT MODELS")) == 0
    assert len(bench.ask("SELECT MODELS WHERE name LIKE 'a%' ON memory < 1 MB PICK SMALLEST")) == 0
    assert len(bench.ask("SELECT DISTINCT MODELS family ORDER BY family LIMIT 3")) == 0
    assert len(bench.ask("SELECT MODELS PICK PARETO (memory, flops)")) == 0
    assert len(bench.ask("SELECT MODELS PICK RANDOM TOP 3")) == 0
    assert len(bench.ask("SHOW MODELS")) == 0


def test_models_without_common_probes_are_bounded_through_a_third(bench: Bench) -> None:
    first, second = bench.probes("first"), bench.probes("second")
    bench.model("reference", 0, first)
    bench.model("middle", 4, first, second)
    bench.model("far", 10, second)
    result = bench.ask(
        "SELECT MODELS name, equivalence, agreement, provenance, method CORR reference"
    )
    assert [(m.name, m.provenance, m.method) for m in result] == [
        ("middle", "measured", "sketch"),
        ("far", "transitive", "transitive"),
    ]
    far = result[1]
    # the observed shares are 1 % and 1.5 % apart: the bound lies below 97.5 % and above chance
    assert 0.85 < far.equivalence < 0.975
    assert far.agreement is None
    passed = bench.ask(f"SELECT MODELS CORR reference {far.equivalence * 100 - 0.01}%")
    assert [m.name for m in passed] == ["middle", "far"]
    failed = bench.ask(f"SELECT MODELS CORR reference {far.equivalence * 100 + 0.01}%")
    assert [m.name for m in failed] == ["middle"]
    possible = bench.ask(
        "SELECT MODELS name, certainty CORR reference 97% USING certainty='possible'"
    )
    assert ("far", "possible") in possible.fetchall()
    assert len(bench.ask("SELECT MODELS CORR reference AGREEMENT >= 50%")) == 1


def test_synthetic_probes_are_marked(bench: Bench) -> None:
    probes = bench.probes("synthetic:f32", synthetic=True, dataset_id=None)
    bench.model("a", 0, probes)
    bench.model("b", 4, probes)
    result = bench.ask("SELECT MODELS provenance CORR a")
    assert result.fetchall() == [("synthetic",)]
    assert "the probes are synthetic: the bounds hold for such inputs only" in result.notes


def test_probes_models_were_trained_on_are_named(bench: Bench) -> None:
    probes = bench.probes("photos")
    bench.catalog.add_dataset(
        Dataset("data", "photos", "array", Path("x.npz"), SAMPLES, None, None, True, None,
                held_out=False)
    )  # fmt: skip
    bench.model("a", 0, probes)
    bench.model("b", 4, probes)
    notes = bench.ask("SELECT MODELS CORR a").notes
    assert any(note.startswith("'photos' is not held out") for note in notes)


def test_classes_without_names_are_matched_by_position_and_marked(bench: Bench) -> None:
    space = LabelSpace("five", "five", tuple("abcde"))
    bench.catalog.add_label_space(space)
    probes = bench.probes("photos")
    bench.model("named", 0, probes, labels="five")
    bench.model("also", 4, probes, labels="five")
    bench.model("unnamed", 8, probes)
    result = bench.ask("SELECT MODELS name, labels CORR named")
    assert result.fetchall() == [("also", "named"), ("unnamed", "positional")]
    assert any("matched by position" in note for note in result.notes)


def test_the_footer_counts_what_is_undecided(ladder: Bench) -> None:
    certain = ladder.ask("SELECT MODELS CORR m0 95%")
    both = ladder.ask("SELECT MODELS certainty CORR m0 95% USING certainty='possible'")
    undecided = len(both) - len(certain)
    assert undecided > 0
    models = "1 model" if undecided == 1 else f"{undecided} models"
    note = f"{models} more may pass: USING certainty='possible' shows what is undecided"
    assert note in certain.notes
    assert not any("may pass" in note for note in both.notes)
    words = [match.certainty for match in both]
    assert words == ["certain"] * len(certain) + ["possible"] * undecided


def test_fewer_candidates_mean_tighter_bounds(ladder: Bench) -> None:
    many = ladder.ask("SELECT MODELS name, equivalence CORR m0")
    few = ladder.ask("SELECT MODELS name, equivalence CORR m0 WHERE name IN ('m1', 'm2')")
    alone = ladder.ask("SELECT MODELS name, equivalence CORR m0 USING correction='none'")
    first = [answer[0].equivalence for answer in (many, few, alone)]
    assert first == sorted(first)
    assert len(set(first)) == 3


def test_any_takes_the_nearer_reference_and_all_the_farther(ladder: Bench) -> None:
    shown = "SELECT MODELS name, agreement CORR {} (m0, m9) WHERE name IN ('m2', 'm8')"
    nearer = dict(ladder.ask(shown.format("ANY")).fetchall())
    farther = dict(ladder.ask(shown.format("ALL")).fetchall())
    assert nearer == {"m2": 392 / SAMPLES, "m8": 396 / SAMPLES}
    assert farther == {"m2": 372 / SAMPLES, "m8": 368 / SAMPLES}


def test_references_stay_out_unless_asked_for(ladder: Bench) -> None:
    names = {m.name for m in ladder.ask("SELECT MODELS CORR ANY (m0, m9)")}
    assert names == {f"m{step}" for step in range(1, 9)}
    kept = ladder.ask(
        "SELECT MODELS name, equivalence CORR ANY (m0, m9) USING include_reference=true"
    )
    assert {m.name for m in kept if m.equivalence == 1.0} == {"m0", "m9"}


def test_a_filter_on_the_reference_itself_also_holds(ladder: Bench) -> None:
    result = ladder.ask("SELECT MODELS CORR m0 WHERE name != 'm0' USING include_reference=true")
    assert "m0" not in [m.name for m in result]


def test_a_bound_relative_to_an_unknown_value_matches_nothing_and_says_so(ladder: Bench) -> None:
    result = ladder.ask("SELECT MODELS CORR m0 ON memory < 80%")
    assert len(result) == 0
    assert "80% of m0 is unknown, so nothing can be compared with it" in result.notes


@pytest.mark.parametrize("limit", [1, 2, 5, 20])
def test_a_limit_answers_the_first_rows_of_the_whole(ladder: Bench, limit: int) -> None:
    whole = ladder.ask("SELECT MODELS CORR m0")
    first = ladder.ask(f"SELECT MODELS CORR m0 LIMIT {limit}")
    picked = ladder.ask(f"SELECT MODELS CORR m0 PICK MOST SIMILAR TOP {limit}")
    assert list(first.ids) == list(picked.ids) == list(whole.ids[:limit])
    assert first.matched == whole.matched == 9


def test_a_new_model_is_found_at_once(ladder: Bench) -> None:
    ladder.ask("SELECT MODELS CORR m0")
    probes = ladder.catalog.probe_set("probes-photos")
    ladder.model("newcomer", 1, probes)
    assert ladder.ask("SELECT MODELS CORR m0").one().name == "newcomer"


# ---- what the bounds promise


@pytest.mark.parametrize("quantifier", ["ANY", "ALL"])
def test_the_best_of_several_references_shares_alpha_even_without_correction(
    ladder: Bench, quantifier: str
) -> None:
    result = ladder.ask(
        f"SELECT MODELS name, equivalence, agreement CORR {quantifier} (m0, m4, m9)"
        " USING correction='none'"
    )
    claims = 3 if quantifier == "ANY" else 1
    assert len(result) == 7
    for match in result:
        agreements = round(match.agreement * SAMPLES)
        expected = beta.ppf(0.05 / claims, agreements, SAMPLES - agreements + 1)
        assert match.equivalence == pytest.approx(expected, abs=1e-9)
    scope = "per model, for its 3 references together" if claims == 3 else "per model"
    note = f"equivalence holds with 95% confidence {scope}, on {SAMPLES} probes of 'photos'"
    assert note in result.notes


def test_the_largest_of_several_uncorrected_bounds_keeps_its_confidence() -> None:
    """20 references that all agree on 90 %: the best bound is above it in at most 5 % of draws."""
    generator = np.random.default_rng(3)
    counts = generator.binomial(SAMPLES, 0.9, size=(2000, 20)).max(axis=1)
    shared, own = (
        float(np.mean(beta.ppf(alpha, counts, SAMPLES - counts + 1) > 0.9))
        for alpha in (0.05 / 20, 0.05)
    )
    assert shared <= 0.05 < 0.3 < own


def vectors(bench: Bench, probes: ProbeSet, *, exact: bool) -> None:
    """Two models that answer with vectors; the second is a tenth off on a tenth of the probes."""
    outputs = np.random.default_rng(0).normal(size=(SAMPLES, 8)).astype(np.float32)
    near = outputs.copy()
    near[: SAMPLES // 10] *= 1.1
    for name, answers in (("one", outputs), ("two", near)):
        record = ModelRecord(id=f"sha256:{name}", name=name, version="1", source="test")
        bench.catalog.add_model(record)
        bench.sketches.add(
            OutputSketch(record.id, probes.id, "vectors", answers.tobytes(), 8, exact, None, None)
        )


def test_agreement_of_projected_outputs_is_called_an_estimate(bench: Bench) -> None:
    vectors(bench, bench.probes("photos"), exact=False)
    result = bench.ask("SELECT MODELS provenance CORR one")
    assert result.fetchall() == [("estimated",)]
    told = " ".join(result.notes)
    assert "equivalence is estimated from projected outputs" in told
    assert "distances are about 4% off" in told
    assert "holds with" not in told
    compared = bench.ask("COMPARE one WITH two")
    assert compared.rows[0][0] == "agreement (estimated)"
    assert any("estimated from projected outputs" in note for note in compared.notes)


def test_agreement_of_whole_outputs_is_not(bench: Bench) -> None:
    vectors(bench, bench.probes("photos"), exact=True)
    result = bench.ask("SELECT MODELS provenance CORR one")
    assert any(note.startswith("equivalence holds with 95% confidence") for note in result.notes)
    compared = bench.ask("COMPARE one WITH two")
    assert compared.rows[0][0] == "agreement"
    assert "estimated" not in " ".join((*result.notes, *compared.notes))


@pytest.mark.parametrize(
    ("seed", "size", "first"), [(-1, 10_000, True), (-1, SAMPLES, False), (0, 10_000, False)]
)
def test_the_first_items_of_a_larger_dataset_are_no_random_sample(
    bench: Bench, seed: int, size: int, first: bool
) -> None:
    probes = bench.probes("photos", seed=seed)
    bench.catalog.add_dataset(
        Dataset("data", "photos", "array", Path("x.npz"), size, None, None, True, None)
    )
    bench.model("a", 0, probes)
    bench.model("b", 4, probes)
    note = (
        f"the probes are the first {SAMPLES} items of 'photos' (of {size}), not a random sample: "
        "the bound holds for those like them"
    )
    assert (note in bench.ask("SELECT MODELS CORR a").notes) is first
    assert (note in bench.ask("COMPARE a WITH b").notes) is first


def test_items_that_were_chosen_are_no_random_sample(bench: Bench) -> None:
    backwards = np.arange(SAMPLES, dtype=np.int64)[::-1].tobytes()
    probes = bench.probes("photos", seed=-1, indices=backwards)
    bench.catalog.add_dataset(
        Dataset("data", "photos", "array", Path("x.npz"), 10_000, None, None, True, None)
    )
    bench.model("a", 0, probes)
    bench.model("b", 4, probes)
    start = f"the probes are {SAMPLES} chosen items of 'photos' (of 10000), not a random sample"
    assert any(note.startswith(start) for note in bench.ask("SELECT MODELS CORR a").notes)


@pytest.mark.parametrize(("held_out", "doubted"), [(None, True), (True, False), (False, False)])
def test_explain_says_that_nobody_declared_the_probes_held_out(
    bench: Bench, held_out: bool | None, doubted: bool
) -> None:
    probes = bench.probes("photos")
    bench.catalog.add_dataset(
        Dataset("data", "photos", "array", Path("x.npz"), SAMPLES, None, None, True, None,
                held_out=held_out)
    )  # fmt: skip
    bench.model("a", 0, probes)
    bench.model("b", 4, probes)
    note = "dataset 'photos' is not declared held out of training"
    for explain in ("EXPLAIN", "EXPLAIN ANALYZE"):
        assert (f"note: {note}" in bench.ask(f"{explain} SELECT MODELS CORR a").lines) is doubted
    assert note not in bench.ask("SELECT MODELS CORR a").notes


def test_skipped_models_are_counted_by_reason(ladder: Bench) -> None:
    other = ladder.probes("other", dataset_id="elsewhere")
    for name in ("x", "y"):
        ladder.model(name, 0, other)
    ladder.model("blank", 0)
    why = "2 analysed on other probe sets only, 1 not analysed for equivalence"
    remedy = "(run ANALYZE ALL FOR EQUIVALENCE)"
    whole = ladder.ask("SELECT MODELS CORR m0")
    assert f"3 models skipped: not comparable with m0: {why} {remedy}" in whole.notes
    some = ladder.ask("SELECT MODELS CORR m0 WHERE name != 'x'")
    assert (
        f"2 models skipped: not comparable with m0: {why} in the whole catalog {remedy}"
        in some.notes
    )
