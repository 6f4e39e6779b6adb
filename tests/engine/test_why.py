"""EXPLAIN WHY with several references, cuts, and its table."""

from __future__ import annotations

import pytest

from tests.engine.conftest import Ask, Bench

ANY_CLAUSES = [
    f"CORR {quantifier} (m0, m9) {asked}"
    for quantifier in ("ANY", "ALL")
    for asked in ("", ">= 95%", ">= 88%", ">= 89% AND AGREEMENT >= 95%", "AGREEMENT >= 93%")
]


@pytest.mark.parametrize("clause", ANY_CLAUSES)
@pytest.mark.parametrize("options", ["", " USING certainty='possible'", " USING correction='none'"])
def test_why_agrees_with_the_answer_for_several_references(
    ladder: Bench, clause: str, options: str
) -> None:
    ladder.model("stranger", 0)
    query = f"SELECT MODELS {clause}{options}"
    inside = {match.name for match in ladder.ask(query)}
    enough = {"true", "possible"} if "possible" in options else {"true"}
    for name in [*(f"m{step}" for step in range(1, 9)), "stranger"]:
        report = ladder.ask(f"EXPLAIN WHY {name} IN ({query})")
        (condition,) = report.data["conditions"]
        assert report.data["in"] is (name in inside)
        assert (condition["verdict"] in enough) is (name in inside), (name, report)
        if name != "stranger" and condition["verdict"] != "true":
            relaxed = condition["relaxation"].removeprefix("would match with ")
            names = [match.name for match in ladder.ask(f"SELECT MODELS {relaxed}{options}")]
            assert name in names, relaxed


def test_why_shows_every_reference_under_the_verdict_of_any(ladder: Bench) -> None:
    report = ladder.ask("EXPLAIN WHY m1 IN (SELECT MODELS CORR ANY (m0, m9) >= 96%)")
    (condition,) = report.data["conditions"]
    assert condition["verdict"] == "true"
    assert condition["value"].endswith("(observed 99%) to m0")
    assert [(p["predicate"], p["verdict"]) for p in condition["parts"]] == [
        ("to m0", "true"),
        ("to m9", "false"),
    ]
    assert report.lines[0] == "m1 is in the answer: every condition is true"


def test_why_not_names_the_limit_or_the_pick_when_any_holds(ladder: Bench) -> None:
    corr = "SELECT MODELS CORR ANY (m0, m9) >= 50%"
    why = "EXPLAIN WHY m4 NOT IN ({})"
    limited = ladder.ask(why.format(f"{corr} LIMIT 2"))
    assert limited.data["conditions"][-1]["predicate"] == "LIMIT"
    picked = ladder.ask(why.format(f"{corr} PICK MOST SIMILAR TOP 2"))
    assert picked.data["conditions"][-1]["predicate"].startswith("PICK")
    both = ladder.ask(why.format(f"{corr} PICK MOST SIMILAR TOP 8 ORDER BY name LIMIT 2"))
    assert both.data["conditions"][-1]["predicate"] == "LIMIT"
    assert both.data["conditions"][-1]["value"] == "place 4 of 8"
    possible = f"{corr} USING certainty='possible'".replace("50%", "99% LIMIT 1")
    cut = ladder.ask(f"EXPLAIN WHY m8 NOT IN ({possible})")
    assert cut.data["conditions"][-1]["predicate"] == "LIMIT"


def test_why_not_names_distinct(ladder: Bench) -> None:
    report = ladder.ask("EXPLAIN WHY m4 NOT IN (SELECT DISTINCT MODELS source)")
    assert report.data["conditions"][-1]["predicate"] == "DISTINCT"


def test_why_fits_a_hundred_columns_and_keeps_every_fact(ask: Ask) -> None:
    report = ask(
        "EXPLAIN WHY resnet101 NOT IN (SELECT MODELS CORR ANY (resnet50, resnet34, vgg16) >= 99.5%"
        " AND AGREEMENT >= 99% WHERE name IN ('mobilenet_v2', 'resnet18', 'resnet34', 'tinynet')"
        " ON memory < 80% OF vgg16 AND latency < 30 ms ON 'cpu')"
    )
    assert max(map(len, report.lines)) <= 100
    words = " ".join(report.lines).split()
    for condition in report.data["conditions"]:
        for entry in (condition, *condition.get("parts", ())):
            for text in (v for v in entry.values() if isinstance(v, str)):
                assert set(text.split()) <= set(words)
