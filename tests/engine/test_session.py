"""What a session promises beyond single answers: parameters, settings, stability, relaxations."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from sommelier.engine.result import Result
from sommelier.engine.session import Session
from sommelier.errors import BinderError, NoModelFoundError, ParameterError
from sommelier.grammar import nodes
from sommelier.grammar.parser import parse
from tests.engine.conftest import SPECIMENS, Ask, asker


def names(result: Result) -> list[str]:
    return [match.name for match in result]


# ---- parameters


def test_parameters_by_name_and_by_position_answer_alike(ask: Ask) -> None:
    by_name = ask(
        "SELECT MODELS CORR $ref $share ON memory < $memory LIMIT $n",
        {"ref": "resnet50", "share": 0.8, "memory": "80%", "n": 2},
    )
    by_position = ask(
        "SELECT MODELS CORR ? ? ON memory < ? LIMIT ?", ["resnet50", "80%", "81.6 MB", 2]
    )
    assert names(by_name) == names(by_position) == ["resnet34", "resnet18"]


def test_a_list_parameter_fills_in(ask: Ask) -> None:
    result = ask("SELECT MODELS WHERE name IN ($names)", {"names": ["bert", "vgg16"]})
    assert names(result) == ["bert", "vgg16"]


def test_parameters_are_never_read_as_language(ask: Ask) -> None:
    result = ask("SELECT MODELS WHERE license = $word", {"word": "MIT' OR name = 'blank"})
    assert len(result) == 0


def test_an_unused_parameter_is_named(ask: Ask) -> None:
    with pytest.raises(ParameterError, match=r"does not use parameter \$n"):
        ask("SELECT MODELS", {"n": 1})


def test_a_bound_number_is_in_bytes_and_a_bound_text_needs_its_unit(ask: Ask) -> None:
    with_unit = {match["name"] for match in ask("SELECT MODELS name ON memory < 200 MB")}
    bound = {match["name"] for match in ask("SELECT MODELS name ON memory < $m", {"m": 200e6})}
    assert bound == with_unit != set()
    assert len(ask("SELECT MODELS name ON memory < $m", {"m": 200})) == 0
    with pytest.raises(BinderError, match="200 what"):
        ask("SELECT MODELS ON memory < $m", {"m": "200"})


def test_why_takes_the_model_as_parameter(ask: Ask) -> None:
    report = ask("EXPLAIN WHY $m IN (SELECT MODELS CORR $r)", {"m": "vgg16", "r": "resnet50"})
    assert report.data["in"] is True


# ---- settings


def set_to(session: Session, text: str) -> None:
    statement = parse(text)
    assert isinstance(statement, nodes.SetOption)
    session.set_option(statement)


def test_settings_apply_until_reset(own_shelf: Session) -> None:
    ask = asker(own_shelf)
    everything = names(ask("SELECT MODELS CORR resnet50"))
    set_to(own_shelf, "SET default_tolerance = 10%")
    tolerant = ask("SELECT MODELS CORR resnet50")
    assert names(tolerant) == ["resnet101", "resnet34"]
    assert "WITHIN 10%: the setting default_tolerance" in tolerant.notes
    own_shelf.reset_option(nodes.ResetOption("default_tolerance"))
    assert names(ask("SELECT MODELS CORR resnet50")) == everything


def test_the_session_device_settles_latency(own_shelf: Session) -> None:
    ask = asker(own_shelf)
    set_to(own_shelf, "SET device = 'cuda:0'")
    assert names(ask("SELECT MODELS ON latency < 4 ms")) == ["resnet50"]
    assert names(ask("SELECT MODELS ON latency < 15 ms USING device='cpu'")) == ["resnet18"]
    assert "latency" in [column.name for column in ask("SELECT MODELS CORR resnet50").columns]


def test_using_wins_over_settings(own_shelf: Session) -> None:
    set_to(own_shelf, "SET confidence = 99%")
    shown = "SELECT MODELS confidence CORR resnet50 LIMIT 1"
    assert asker(own_shelf)(shown)[0].confidence == 0.99
    assert asker(own_shelf)(f"{shown} USING confidence=90%")[0].confidence == 0.90


@pytest.mark.parametrize(
    "text", ["SET confidence = 40%", "SET devise = 'cpu'", "SET batch = 0", "SET mode = 'x'"]
)
def test_a_wrong_setting_is_refused_when_it_is_set(own_shelf: Session, text: str) -> None:
    with pytest.raises(BinderError):
        set_to(own_shelf, text)
    assert own_shelf.settings() == {}


@pytest.mark.parametrize(
    ("text", "message", "nearest"),
    [("SET device = 'cuda0'", "unknown device 'cuda0'", "cuda:0"),
     ("SET dataset = 'imagenett'", "unknown dataset 'imagenett'", "imagenet"),
     ("SET dataset = foto", "unknown dataset 'foto'", "photos")],
)  # fmt: skip
def test_an_unknown_device_or_dataset_is_refused_with_the_nearest(
    own_shelf: Session, text: str, message: str, nearest: str
) -> None:
    with pytest.raises(BinderError, match=message) as caught:
        set_to(own_shelf, text)
    assert nearest in caught.value.suggestions
    assert caught.value.span is not None
    assert own_shelf.settings() == {}


@pytest.mark.parametrize(
    "text",
    ["SET device = jetson", "SET device = 'cpu'", "SET dataset = cifar10", "SET dataset = photos"],
)
def test_what_is_registered_probed_or_measured_can_be_set(own_shelf: Session, text: str) -> None:
    set_to(own_shelf, text)
    assert len(own_shelf.settings()) == 1


# ---- the catalog changes


def test_an_answer_stays_as_it_was_when_models_go(own_shelf: Session) -> None:
    ask = asker(own_shelf)
    result = ask("SELECT MODELS name, memory, equivalence, provenance CORR resnet50")
    before = ask("SELECT MODELS name, memory, equivalence, provenance CORR resnet50").fetchall()
    own_shelf.catalog.drop_model(SPECIMENS[1].id)
    assert len(ask("SELECT MODELS CORR resnet50")) == 6
    for row, earlier in zip(result.fetchall(), before, strict=True):
        # bounds are solved by bisection before scipy is loaded, by scipy afterwards
        (name, memory, equivalence, provenance), bound = row, earlier[2]
        assert (name, memory, provenance) == (earlier[0], earlier[1], earlier[3])
        assert equivalence == pytest.approx(bound, rel=1e-13)


def test_a_view_follows_and_may_not_contain_itself(own_shelf: Session) -> None:
    ask = asker(own_shelf)
    own_shelf.catalog.save_view("small", "SELECT MODELS ON params < 4M")
    assert names(ask("SELECT MODELS FROM VIEW small")) == ["mobilenet_v2", "tinynet"]
    own_shelf.catalog.save_view("small", "SELECT MODELS FROM VIEW other")
    own_shelf.catalog.save_view("other", "SELECT MODELS FROM VIEW small")
    with pytest.raises(BinderError, match="contains itself: small -> other -> small"):
        ask("SELECT MODELS FROM VIEW small")


def test_a_pool_forgets_models_that_are_gone(own_shelf: Session) -> None:
    own_shelf.catalog.drop_model(SPECIMENS[5].id)
    assert names(asker(own_shelf)("SELECT MODELS FROM POOL edge")) == ["resnet18"]


# ---- relaxations hold what they promise


@pytest.mark.parametrize(
    ("conditions", "model"),
    [
        ("ON memory < 10%", "mobilenet_v2"),
        ("ON memory <= 10%", "mobilenet_v2"),
        ("ON flops < 1 GFLOPs AND memory > 20 MB", None),
        ("ON params < 500K", "tinynet"),
        ("WHERE accuracy >= 80% ON 'imagenet'", "resnet101"),
    ],
)
def test_the_smallest_relaxation_finds_the_model_it_names(
    ask: Ask, conditions: str, model: str | None
) -> None:
    with pytest.raises(NoModelFoundError) as caught:
        ask(f"SELECT MODELS CORR resnet50 10% {conditions}").one()
    hint = caught.value.hint or ""
    found = re.fullmatch(r"(\S+) would match with (.+)", hint)
    assert found is not None, hint
    name, relaxed = found.groups()
    assert name in caught.value.suggestions
    assert model in (None, name)
    clause = "WHERE" if "accuracy" in relaxed else "ON"
    relaxed = re.sub(r"(accuracy)( ON 'imagenet')(.*)", r"\1\3\2", relaxed)
    assert name in names(ask(f"SELECT MODELS CORR resnet50 10% {clause} {relaxed}"))


def test_the_relaxation_of_corr_is_asked_for_and_found(ask: Ask) -> None:
    with pytest.raises(NoModelFoundError) as caught:
        ask("SELECT MODELS CORR resnet50 99% ON memory < 100%").one()
    relaxed = re.search(r"CORR resnet50 >= \S+%", caught.value.hint or "")
    assert relaxed is not None
    assert names(ask(f"SELECT MODELS {relaxed[0]} ON memory < 100%")) == ["resnet34"]


@pytest.mark.parametrize("specimen", SPECIMENS[1:7], ids=lambda s: f"{s.name}@{s.version}")
def test_every_relaxation_of_why_turns_its_condition(ask: Ask, specimen: object) -> None:
    model = f"{specimen.name}@{specimen.version}"  # type: ignore[attr-defined]
    query = "SELECT MODELS CORR resnet50 99% ON memory < 10% AND flops <= 0.2 GFLOPs"
    report = ask(f"EXPLAIN WHY {model} NOT IN ({query})")
    relaxed = [
        condition["relaxation"].removeprefix("would match with ")
        for condition in report.data["conditions"]
        if condition["verdict"] != "true"
    ]
    corr = next(text for text in relaxed if text.startswith("CORR"))
    on = " AND ".join(text for text in relaxed if not text.startswith("CORR"))
    ids = list(ask(f"SELECT MODELS {corr} ON {on} USING correction='none'").ids)
    assert specimen.id in ids  # type: ignore[attr-defined]


def test_match_why_speaks_about_its_own_row(ask: Ask) -> None:
    match = ask("SELECT MODELS CORR resnet50 90%").one()
    assert str(match.why()).startswith("resnet101 is in the answer")


# ---- explain


def test_explain_as_json_is_data(ask: Ask) -> None:
    import json

    report = ask("EXPLAIN ANALYZE (format = json) SELECT MODELS CORR resnet50 90% LIMIT 1")
    data = json.loads(str(report))
    assert [stage["name"] for stage in data["stages"]] == ["source", "corr", "order", "limit"]
    assert data["stages"][1]["rows_in"] == len(SPECIMENS)
    assert data["stages"][-1]["rows_out"] == 1


def test_stage_counts_chain(ask: Ask) -> None:
    result = ask("SELECT MODELS CORR resnet50 80% WHERE license = 'MIT' ON memory < 80% LIMIT 1")
    flow = [(stage.rows_in, stage.rows_out) for stage in result.stages]
    assert all(left[1] == right[0] for left, right in pairwise(flow))
    assert flow[0][0] == len(SPECIMENS)


# ---- names


def test_names_serve_completion(shelf: Session) -> None:
    assert shelf.names("model") == sorted({s.name for s in SPECIMENS})
    devices = shelf.names("device")
    assert {"jetson", "mystery", "cpu", "cuda:0", "raspberry-pi-4"} <= set(devices)
    assert len(devices) == len(set(devices))
    assert shelf.names("pool") == ["edge"]
    assert "equivalence" in shelf.names("column")
    assert "MB" in shelf.names("unit")


def test_random_picks_follow_the_seed(ask: Ask) -> None:
    first = ask("SELECT MODELS PICK RANDOM TOP 4 USING seed=3").ids
    again = ask("SELECT MODELS PICK RANDOM TOP 4 USING seed=3").ids
    other = ask("SELECT MODELS PICK RANDOM TOP 4 USING seed=4").ids
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
