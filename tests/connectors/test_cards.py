from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import pytest

from sommelier.connectors.cards import MAX_CARD_BYTES, load_card, member_path, parse_card
from sommelier.connectors.wheel import built_in_card
from sommelier.errors import ConnectorError


def card(*entries: object) -> object:
    return {"models": list(entries)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"match": "*", "taks": "x"}, "models[0]: unknown key 'taks'"),
        ({"task": "x"}, "models[0].match must be"),
        ({"match": [1]}, "models[0].match must be"),
        ("resnet", "models[0] is not an object"),
        ({"match": "*", "task": 3}, "models[0].task: 3 is not text"),
        ({"match": "*", "tags": "a"}, "models[0].tags: must be a list"),
        ({"match": "*", "output_kind": "clasification"}, "not an output kind"),
        ({"match": "*", "labels": "cifar"}, "not a well-known label space"),
        ({"match": "*", "labels": ["a", "b", "a"]}, "label 'a' occurs twice"),
        ({"match": "*", "labels": {"a": 0, "b": 2}}, "number its labels"),
        ({"match": "*", "preprocessing": [["normalize", 3]]}, "arguments of step 'normalize'"),
        ({"match": "*", "preprocessing": [[1, {}]]}, "is not a step"),
        ({"match": "*", "preprocessing": "normalize"}, "is not a step"),
    ],
)
def test_a_mistake_is_told_with_its_place(entry: object, message: str) -> None:
    with pytest.raises(ConnectorError) as caught:
        parse_card(card(entry), "card.json")
    assert message in caught.value.message
    assert caught.value.message.startswith("card.json: ")


def test_a_misspelled_key_or_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConnectorError) as caught:
        parse_card(card({"match": "*", "licence": "MIT"}), "c")
    assert caught.value.suggestions[0] == "license"
    with pytest.raises(ConnectorError) as caught:
        parse_card(card({"match": "*", "output_kind": "clasification"}), "c")
    assert caught.value.suggestions[0] == "classification"


@pytest.mark.parametrize("content", [None, [], {}, {"models": {}}, "x"])
def test_what_is_no_card_is_said_so(content: object) -> None:
    with pytest.raises(ConnectorError, match="a card is an object with a list 'models'"):
        parse_card(content, "c")


def test_all_matching_entries_apply_and_the_later_wins() -> None:
    parsed = parse_card(
        card(
            {"match": "*", "task": "a", "family": "all"},
            {"match": ["resnet*", "vgg*"], "task": "b"},
            {"match": "RESNET*", "task": "c"},
        ),
        "c",
    )
    assert parsed.facts(("resnet20",)).declared == {"task": "b", "family": "all"}
    assert parsed.facts(("alexnet",)).declared == {"task": "a", "family": "all"}


def test_labels_come_from_a_list_a_name_a_mapping_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps({"a": {"b": [["x", "y"]]}, "m": {"q": 1, "p": 0}}))
    (tmp_path / "c.json").write_text(
        json.dumps(
            card(
                {"match": "list", "labels": ["u", "v"]},
                {"match": "name", "labels": "cifar10"},
                {"match": "mapping", "labels": {"file": "l.json", "key": "m"}},
                {"match": "file", "labels": {"file": "l.json", "key": "a.b.0"}},
            )
        )
    )
    parsed = load_card(tmp_path / "c.json")
    assert parsed.facts(("list",)).declared["labels"] == ("u", "v")
    cifar10 = parsed.facts(("name",)).declared
    assert cifar10["labels"][3] == "cat"  # type: ignore[index]  # object
    assert cifar10["label_space"] == "cifar10"
    assert parsed.facts(("mapping",)).declared["labels"] == ("p", "q")
    assert parsed.facts(("file",)).declared["labels"] == ("x", "y")


def test_a_reference_that_leads_nowhere_leaves_its_fact_out_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"a": [1]}')
    entry = {"match": "*", "task": "t", "labels": {"file": "l.json", "key": "a.7"}}
    parsed = parse_card(card(entry), "c", folder=tmp_path)
    facts = parsed.facts(("m",))
    assert facts.declared == {"task": "t"}
    assert facts.problems == ("c: labels: l.json has no key 'a.7'",)


@pytest.mark.parametrize("reference", ["../secret.json", "/etc/hostname", "link.json"])
def test_a_reference_cannot_leave_the_folder_of_its_card(reference: str, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"a": ["x"]}')
    home = tmp_path / "home"
    home.mkdir()
    (home / "link.json").symlink_to(tmp_path / "secret.json")
    entry = {"match": "*", "labels": {"file": reference, "key": "a"}}
    facts = parse_card(card(entry), "c", folder=home).facts(("m",))
    assert "labels" not in facts.declared
    assert "leads out of" in facts.problems[0]


def test_an_archive_reference_cannot_leave_the_archive() -> None:
    with pytest.raises(ConnectorError):
        member_path("a/b", "../../c.json")


def test_an_unrecognised_licence_is_kept_in_words() -> None:
    parsed = parse_card(card({"match": "*", "license": "Ask Bob"}), "c")
    assert parsed.facts(("m",)).declared == {"note": "licence as stated: Ask Bob"}


def test_json_with_an_error_is_told_by_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"models": [\n  {"match": "*",}\n]}')
    with pytest.raises(ConnectorError, match=r"line 2, column \d+"):
        load_card(tmp_path / "c.json")


def test_every_card_we_ship_is_valid() -> None:
    folder = importlib.resources.files("sommelier.connectors") / "cards"
    names = [file.name.removesuffix(".json") for file in folder.iterdir()]
    assert "magika" in names
    for name in names:
        assert built_in_card(name) is not None
    assert built_in_card("no-such-package") is None


@pytest.mark.parametrize("key", ["a.²", "a." + "9" * 5000, "a.1"])
def test_a_key_that_leads_nowhere_is_a_problem_and_no_crash(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text('{"a": ["x"]}')
    reference = {"file": "config.json", "key": key}
    (tmp_path / "card.json").write_text(json.dumps(card({"match": "*", "task": reference})))
    facts = load_card(tmp_path / "card.json").facts(("m",))
    assert facts.declared == {}
    assert "has no key" in facts.problems[0]


def test_a_number_of_5000_digits_is_no_json_for_us(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("9" * 5000)
    with pytest.raises(ConnectorError, match="not JSON"):
        load_card(tmp_path / "card.json")


def deep(levels: int) -> object:
    return json.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize("levels", [60, 900])
def test_what_is_nested_very_deep_is_no_card(tmp_path: Path, levels: int) -> None:
    steps = [["resize", {"size": deep(levels)}]]
    with pytest.raises(ConnectorError, match=r"c: models\[0\] is nested more than 50 deep"):
        parse_card(card({"match": "*", "preprocessing": steps}), "c")
    (tmp_path / "deep.json").write_text(json.dumps(deep(levels)))
    referring = {"match": "*", "preprocessing": [["x", {"a": {"file": "deep.json", "key": ""}}]]}
    found = parse_card(card(referring), "c", folder=tmp_path).facts(("a",))
    assert found.problems == ("c: preprocessing: is nested more than 50 deep",)


def test_a_file_is_read_once_however_often_a_card_refers_to_it(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('["x", "y"]')
    parsed = parse_card(card({"match": "*", "tags": {"file": "l.json", "key": ""}}), "c",
                        folder=tmp_path)  # fmt: skip
    assert parsed.facts(("a",)).declared == {"tags": ("x", "y")}
    (tmp_path / "l.json").unlink()
    assert parsed.facts(("b",)).declared == {"tags": ("x", "y")}
    asked: list[str] = []
    steps = [["x", {"a": [{"file": "f", "key": ""}] * 40}]]
    again = parse_card(card({"match": "*", "preprocessing": steps}), "c")
    again.facts(("a",), lambda name: asked.append(name) or 1)  # type: ignore[func-returns-value]
    assert asked == ["f"]


def test_all_that_a_card_refers_to_has_a_limit_together(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps("x" * (MAX_CARD_BYTES // 2 + 10)))
    entry = {"match": "*", "task": {"file": "a.json", "key": ""},
             "family": {"file": "b.json", "key": ""}}  # fmt: skip
    found = parse_card(card(entry), "c", folder=tmp_path).facts(("m",))
    assert list(found.declared) == ["task"]
    assert "'b.json': the card refers to more than 16 MB of files" in found.problems[0]


def test_a_fact_that_references_blow_up_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps(list(range(10_000))))
    reference = {"file": "l.json", "key": ""}
    entry = {"match": "*", "task": "t", "preprocessing": [["x", {"a": [reference] * 200}]]}
    found = parse_card(card(entry), "c", folder=tmp_path).facts(("m",))
    assert found.declared == {"task": "t"}
    assert "more than 1000000 values" in found.problems[0]
