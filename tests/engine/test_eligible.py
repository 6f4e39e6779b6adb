"""K counts the models a question chose from before it looked at answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

import sommelier as sm
from tests.factories import mlp_classifier

FEATURES, CLASSES, SAMPLES, MODELS = 5, 3, 120, 8


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models")
    for seed in range(MODELS):
        mlp_classifier(folder / f"m{seed}.onnx", seed=seed, features=FEATURES, classes=CLASSES)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(folder / "points.npz", x=inputs, y=rng.integers(0, CLASSES, SAMPLES))
    with sm.connect(folder / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        db.register_dataset("points", folder / "points.npz", held_out=True)
        db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE USING dataset = 'points'")
        yield db


def bound(agreement: float, claims: int) -> float:
    k = round(agreement * SAMPLES)
    return float(beta.ppf(0.05 / claims, k, SAMPLES - k + 1)) if k else 0.0


def rows(db: sm.Connection, text: str) -> list[tuple[str, float, float]]:
    return db.query(text).fetchall()


QUESTION = "SELECT MODELS name, agreement, equivalence"


def test_a_condition_on_accuracy_of_the_probed_data_does_not_lower_k(db: sm.Connection) -> None:
    best = db.query(
        "SELECT MODELS name, accuracy ON 'points' ORDER BY accuracy ON 'points' DESC LIMIT 3"
    ).fetchall()
    least = min(accuracy for _, accuracy in best)
    result = db.query(f"{QUESTION} CORR m0 WHERE accuracy >= {least * 100:.6f}% ON 'points'")
    found = result.fetchall()
    assert 0 < len(found) <= MODELS - 2
    for _, agreement, equivalence in found:
        assert equivalence == pytest.approx(bound(agreement, MODELS - 1), abs=1e-9)
    assert any("optimistic" in note for note in result.result.notes)
    why = db.execute(
        f"EXPLAIN WHY {found[0][0]} IN (SELECT MODELS CORR m0 1% "
        f"WHERE accuracy >= {least * 100:.6f}% ON 'points')"
    )
    shown = [c["value"] for c in why.data["conditions"] if c["predicate"].startswith("CORR")]
    assert shown[0].split("%")[0] == f"{found[0][2] * 100:.4g}"


def test_conditions_on_resources_and_names_lower_k(db: sm.Connection) -> None:
    for _, agreement, equivalence in rows(db, f"{QUESTION} CORR m0 WHERE name IN ('m1', 'm2')"):
        assert equivalence == pytest.approx(bound(agreement, 2), abs=1e-9)


def test_a_pool_that_corr_filled_counts_all_it_was_chosen_from(db: sm.Connection) -> None:
    db.execute("CREATE OR REPLACE POOL near AS SELECT MODELS CORR m0 PICK MOST SIMILAR TOP 2")
    db.execute("CREATE OR REPLACE POOL named AS SELECT MODELS WHERE name IN ('m1', 'm2')")
    for _, agreement, equivalence in rows(db, f"{QUESTION} FROM POOL near CORR m0"):
        assert equivalence == pytest.approx(bound(agreement, MODELS - 1), abs=1e-9)
    for _, agreement, equivalence in rows(db, f"{QUESTION} FROM POOL named CORR m0"):
        assert equivalence == pytest.approx(bound(agreement, 2), abs=1e-9)
    inner = "(SELECT MODELS CORR m0 PICK MOST SIMILAR TOP 2)"
    for _, agreement, equivalence in rows(db, f"{QUESTION} FROM {inner} CORR m0"):
        assert equivalence == pytest.approx(bound(agreement, MODELS - 1), abs=1e-9)


def counted(db: sm.Connection, source: str) -> int:
    """The K with which a CORR over the source was corrected, told by its bounds alone."""
    found = rows(db, f"{QUESTION} FROM {source} CORR m0")
    agree = next((row for row in found if 0 < row[1] < 1), None)
    assert agree is not None, "a bound tells K where some answers differ"
    (claims,) = (k for k in range(1, 20) if abs(bound(agree[1], k) - agree[2]) < 1e-9)
    return claims


CHOSEN_BY_ANSWERS = (
    "PICK MOST ACCURATE TOP 3",
    "PICK MAX(accuracy) TOP 3",
    "PICK PARETO (1 - accuracy, memory)",
    "ORDER BY accuracy DESC LIMIT 3",
    "ORDER BY (accuracy * 2) DESC LIMIT 3 OFFSET 1",
    "ORDER BY memory, accuracy LIMIT 3",
    "WHERE name IN ('m1', 'm2') OR (accuracy >= 99%)",
    "PICK MAX(top5_accuracy) TOP 3",
    "ORDER BY margin_loss LIMIT 3",
)
BLIND = (
    "PICK SMALLEST TOP 3",
    "PICK RANDOM TOP 3",
    "ORDER BY name LIMIT 3",
    "WHERE name IN ('m1', 'm2', 'm3') ORDER BY accuracy DESC",
)


@pytest.fixture(scope="module")
def sources(db: sm.Connection):
    """A clause as a query, a view and a pool."""
    for model in range(1, MODELS):
        db.execute(f"ALTER MODEL m{model} SET top5_accuracy = {90 + model}% ON 'points'")
        db.execute(f"ALTER MODEL m{model} SET margin_loss = {10 + model}% ON 'points'")

    def kinds(select: str) -> tuple[str, ...]:
        db.execute(f"CREATE OR REPLACE VIEW chosen AS {select}")
        db.execute(f"CREATE OR REPLACE POOL chosen AS {select}")
        return f"({select})", "VIEW chosen", "POOL chosen"

    return kinds


@pytest.mark.parametrize("clause", CHOSEN_BY_ANSWERS)
def test_a_source_that_chose_by_answers_counts_all_it_chose_from(
    db: sm.Connection, sources, clause: str
) -> None:
    for source in sources(f"SELECT MODELS {clause}"):
        assert counted(db, source) == MODELS - 1, source


@pytest.mark.parametrize("clause", BLIND)
def test_a_source_that_chose_blindly_counts_what_it_has(
    db: sm.Connection, sources, clause: str
) -> None:
    for source in sources(f"SELECT MODELS {clause}"):
        names = {name for (name,) in db.query(f"SELECT MODELS name FROM {source}").fetchall()}
        assert counted(db, source) == len(names - {"m0"}) <= 3, source


def test_distinct_keeps_the_first_in_order_and_so_chooses(db: sm.Connection, sources) -> None:
    select = "SELECT DISTINCT MODELS memory WHERE name <> 'm0' ORDER BY accuracy DESC"
    for source in sources(select):
        assert len(rows(db, f"{QUESTION} FROM {source} CORR m0")) == 1
        assert counted(db, source) == MODELS - 1


def test_an_alias_of_accuracy_chooses_by_it(db: sm.Connection, sources) -> None:
    for source in sources(
        "SELECT MODELS name, accuracy * 100 AS score ORDER BY score DESC LIMIT 3"
    ):
        assert counted(db, source) == MODELS - 1, source


def test_of_a_query_what_its_blind_conditions_left_is_counted(db: sm.Connection) -> None:
    few = "WHERE name IN ('m0', 'm1', 'm2', 'm3', 'm4')"
    for inner in (
        f"(SELECT MODELS {few} PICK MOST ACCURATE TOP 2)",
        f"(SELECT MODELS FROM (SELECT MODELS {few}) ORDER BY accuracy DESC LIMIT 2)",
        f"(SELECT MODELS FROM (SELECT MODELS {few} PICK MOST ACCURATE TOP 2))",
    ):
        assert counted(db, inner) == 4, inner  # fmt: skip


def test_a_pool_is_as_its_sources_were(db: sm.Connection, sources) -> None:
    sources("SELECT MODELS PICK MOST ACCURATE TOP 3")
    for kind in ("VIEW", "POOL"):
        db.execute(f"CREATE OR REPLACE POOL second AS SELECT MODELS FROM {kind} chosen")
        assert counted(db, "POOL second") == MODELS - 1
    db.execute("CREATE OR REPLACE POOL chosen AS SELECT MODELS FROM POOL chosen ON memory < 1 GB")
    assert counted(db, "POOL chosen") == MODELS - 1  # of what it was before nothing is kept
    db.execute("CREATE OR REPLACE POOL second AS SELECT MODELS FROM VIEW chosen")
    db.execute("DROP VIEW chosen")
    assert counted(db, "POOL second") == MODELS - 1


def test_accuracy_on_data_that_nobody_was_probed_on_is_no_luck(db: sm.Connection) -> None:
    for model in range(MODELS):
        db.execute(f"ALTER MODEL m{model} SET accuracy = {50 + model}% ON 'elsewhere'")
    best = "ORDER BY accuracy ON 'elsewhere' DESC LIMIT 3"
    assert counted(db, f"(SELECT MODELS {best})") == 3


def test_little_agreement_is_certain_when_its_upper_bound_says_so(db: sm.Connection) -> None:
    """`<=` takes the other end of the interval than `>=`."""
    every = {name: agreement for name, agreement, _ in rows(db, f"{QUESTION} CORR m0")}
    middle = sorted(every.values())[len(every) // 2]
    text = f"SELECT MODELS name CORR m0 AGREEMENT <= {middle * 100:.4f}% CONFIDENCE 95%"
    certain = {name for (name,) in db.query(text).fetchall()}
    upper = {
        name: float(beta.ppf(1 - 0.05 / (MODELS - 1), k + 1, SAMPLES - k)) if k < SAMPLES else 1.0
        for name, k in ((n, round(a * SAMPLES)) for n, a in every.items())
    }
    assert certain == {name for name in every if upper[name] <= middle + 1e-6}
    possible = db.query(f"{text} USING certainty = 'possible'").fetchall()
    lower = {name: bound(agreement, MODELS - 1) for name, agreement in every.items()}
    assert {n for (n,) in possible} == {name for name in every if lower[name] <= middle + 1e-6}
