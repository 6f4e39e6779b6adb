from __future__ import annotations

import glob
import json
import os
import time
from pathlib import Path, PurePosixPath

import onnx
import pytest
from onnx import TensorProto, helper

from sommelier.connectors.folder import FolderConnector
from sommelier.connectors.naming import distinct_names
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Rejection
from tests.factories import external_data_model, if_subgraph_model, tiny_classifier

CARD = Path(__file__).parents[1] / "zoo_card.json"


def fetch(*locations: Path | str, **options: object) -> list[Artifact | Rejection]:
    return list(FolderConnector().fetch(tuple(map(str, locations)), options=options))


def only(*locations: Path | str, **options: object) -> Artifact:
    (item,) = fetch(*locations, **options)
    assert isinstance(item, Artifact), item
    return item


def refused(*locations: Path | str, **options: object) -> str:
    (item,) = fetch(*locations, **options)
    assert isinstance(item, Rejection), item
    return item.reason


def names(items: list[Artifact | Rejection]) -> list[str]:
    return [item.name for item in items if isinstance(item, Artifact)]


def test_a_file_a_folder_and_patterns_find_models_each_once(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/er/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tiny_classifier(tmp_path / f"{name}.onnx")
    (tmp_path / "notes.txt").write_text("no model")
    assert names(fetch(tmp_path / "b.onnx", tmp_path / "*.onnx")) == ["b", "a"]
    assert names(fetch(tmp_path)) == ["a", "b", "c"]
    assert names(fetch(tmp_path / "**" / "*.onnx")) == ["a", "b", "c"]
    assert names(fetch(tmp_path / "*")) == ["a", "b"]


def test_what_a_search_through_a_folder_leaves_is_told_once_with_how_to_name_it(
    tmp_path: Path,
) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    for name in ("net.pt", "deep/weights.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"anything")
    first, left = fetch(tmp_path)
    assert isinstance(first, Artifact)
    assert isinstance(left, Rejection)
    assert left.revision == str(tmp_path)
    assert "2 files hold a model or weights alone" in left.reason
    assert "FROM folder '" in left.reason
    assert "1 file holds" in str(fetch(tmp_path, tmp_path / "net.pt")[-1])  # one was named


def test_the_listed_size_counts_weights_beside_the_file(tmp_path: Path) -> None:
    external_data_model(tmp_path / "m.onnx")
    (weights,) = (path for path in tmp_path.iterdir() if path.name != "m.onnx")
    weights.rename(tmp_path / "m.onnx.data")
    (found,) = FolderConnector().list((str(tmp_path),), options={})
    assert found.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_suffix_may_be_written_in_any_case(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "VGG.ONNX")
    for location in (tmp_path, tmp_path / "VGG.ONNX", tmp_path / "*"):
        assert names(fetch(location)) == ["VGG"]


def test_the_files_that_a_database_keeps_are_no_models(tmp_path: Path) -> None:
    """Copies of models, and the links between them, lie beside the database: often in the folder
    that models are imported from."""
    kept = tmp_path / "models.sommelier.d" / "artifacts" / "ab" / "link.onnx"
    other = tmp_path / "old.d" / "b.onnx"
    for path in (kept, other):
        path.parent.mkdir(parents=True)
        tiny_classifier(path)
    tiny_classifier(tmp_path / "a.onnx")
    assert names(fetch(tmp_path)) == ["a", "link", "b"]  # no database is beside them
    (tmp_path / "models.sommelier").write_bytes(b"")
    assert names(fetch(tmp_path)) == ["a", "b"]
    assert names(fetch(tmp_path / "**" / "*.onnx")) == ["a", "b"]
    assert names(fetch(kept)) == ["link"]  # who names it means it


def test_a_home_folder_is_written_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_classifier(tmp_path / "a.onnx")
    assert only("~/a.onnx").path == tmp_path / "a.onnx"
    assert names(fetch("~/*.onnx")) == ["a"]


def test_equal_stems_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("resnet", "mobilenet"):
        (tmp_path / folder).mkdir()
        tiny_classifier(tmp_path / folder / "model.onnx")
    assert names(fetch(tmp_path)) == ["mobilenet/model", "resnet/model"]


def test_the_same_bytes_under_two_names_stay_two_names(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").symlink_to("a.onnx")
    assert names(fetch(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to("gone"), "broken link"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.write_bytes(b"\xff\x00 no protobuf"), "not an ONNX file"),
        (lambda path: path.write_text("<html>404</html>"), "not an ONNX file"),
        (lambda path: path.write_bytes(b"\x08\x07"), "holds no graph"),
    ],
)
def test_a_file_that_cannot_be_a_model_is_rejected_with_the_reason(
    make: object, reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.onnx")  # type: ignore[operator]  # a table of lambdas
    assert reason in refused(tmp_path / "x.onnx")


def test_a_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"")
    tiny_classifier(tmp_path / "c.onnx")
    assert [type(item) for item in fetch(tmp_path)] == [Artifact, Rejection, Artifact]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_rejected(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx").chmod(0)
    assert "cannot be read" in refused(tmp_path / "a.onnx")


def test_a_file_name_that_is_no_utf8_is_rejected_readably(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.onnx"
    with open(path, "wb") as file:  # noqa: PTH123  (bytes path)
        file.write(b"x")
    (item,) = fetch(tmp_path)
    assert isinstance(item, Rejection)
    assert "UTF-8" in item.reason
    item.revision.encode("utf-8")


def test_max_size_counts_external_data(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    graph = path.stat().st_size
    total = graph + (tmp_path / "m.onnx.data").stat().st_size
    assert only(path, max_size=total)
    assert "too large" in refused(path, max_size=total - 1)
    assert "too large" in refused(path, max_size="1 kB")
    with pytest.raises(ConnectorError, match="max_size"):
        fetch(path, max_size="1 furlong")


def test_external_data_files_are_declared(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    assert only(path).declared["external_data"] == [str(tmp_path / "m.onnx.data")]
    assert "external_data" not in only(tiny_classifier(tmp_path / "t.onnx")).declared


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../outside.bin", "outside the model's folder"),
        ("sub/../../outside.bin", "outside the model's folder"),
        ("sub\\..\\..\\outside.bin", "outside the model's folder"),
        ("/etc/passwd", "absolute path"),
        ("C:\\Windows\\win.ini", "absolute path"),
        ("\\\\server\\share", "absolute path"),
        ("missing.bin", "missing"),
        ("folder", "not a regular file"),
        ("link.bin", "a link out of"),
        ("linked/outside.bin", "a link out of"),
    ],
)
def test_external_data_that_leads_out_of_the_folder_is_rejected(
    location: str, reason: str, tmp_path: Path
) -> None:
    home = tmp_path / "models"
    (home / "folder").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(10**5))
    (home / "link.bin").symlink_to(tmp_path / "outside.bin")
    (home / "linked").symlink_to(tmp_path)
    path = external_data_model(home / "m.onnx", location=location)
    assert reason in refused(path)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx", location="alias.bin")
    (tmp_path / "alias.bin").symlink_to("m.onnx.data")
    assert only(path).declared["external_data"] == [str(tmp_path / "alias.bin")]


def test_external_data_cut_short_is_rejected(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    assert "cut short" in refused(path)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "-1"), ("length", "1e9"), ("offset", "9" * 30)]
)
def test_impossible_offsets_are_rejected(key: str, value: str, tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        del tensor.external_data[1:]
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    assert f"impossible {key}" in refused(path)


def _hostile() -> TensorProto:
    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def test_hostile_locations_are_found_in_subgraphs_constants_and_functions(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.append(helper.make_attribute("value", _hostile()))

    branch = onnx.load(str(if_subgraph_model(tmp_path / "branch.onnx")))
    choice = next(node for node in branch.graph.node if node.op_type == "If")
    choice.attribute[0].g.node.append(constant)

    function = onnx.load(str(tiny_classifier(tmp_path / "function.onnx")))
    opset = [helper.make_opsetid("", 17)]
    function.functions.append(helper.make_function("own", "f", [], ["w"], [constant], opset))

    sparse = onnx.load(str(tiny_classifier(tmp_path / "sparse.onnx")))
    sparse.graph.sparse_initializer.add().values.CopyFrom(_hostile())

    for model, name in ((branch, "branch"), (function, "function"), (sparse, "sparse")):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        assert "absolute path" in refused(path)


def test_a_place_that_does_not_exist_is_answered_with_what_is_there(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "resnet20.onnx")
    with pytest.raises(ConnectorError) as caught:
        fetch(tmp_path / "resnet2.onnx")
    assert caught.value.suggestions == (str(tmp_path / "resnet20.onnx"),)
    with pytest.raises(ConnectorError, match=r"no \.onnx file"):
        fetch(tmp_path / "*.torch")


def test_a_checkpoint_of_another_format_is_rejected_not_opened(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"PK\x03\x04")
    assert "export the model to ONNX" in refused(tmp_path / "model.ckpt")


def test_cards_state_facts_and_the_closer_one_wins(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    tiny_classifier(tmp_path / "b.onnx")
    entry = {"match": "*", "task": "from-folder", "family": "f", "license": "Apache 2.0"}
    (tmp_path / "sommelier.json").write_text(json.dumps({"models": [entry]}))
    (tmp_path / "a.json").write_text(json.dumps({"models": [{"match": "a", "task": "from-file"}]}))
    card = tmp_path / "mine" / "card.json"
    card.parent.mkdir()
    card.write_text(json.dumps({"models": [{"match": "b", "tags": ["mine"]}]}))
    a, b = fetch(tmp_path / "*.onnx", card=str(card))
    assert isinstance(a, Artifact)
    assert isinstance(b, Artifact)
    assert a.declared == {"task": "from-file", "family": "f", "license": "Apache-2.0"}
    assert b.declared == {
        "task": "from-folder",
        "family": "f",
        "license": "Apache-2.0",
        "tags": ("mine",),
    }


def test_json_of_other_tools_beside_a_model_is_left_alone(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    (tmp_path / "a.json").write_text('{"vocab": {"x": 1}}')
    (tmp_path / "card.json").write_text('{"models": "are nice"}')
    assert only(tmp_path / "a.onnx").declared == {}


def test_a_broken_card_is_told_once_and_the_models_come_without_it(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    tiny_classifier(tmp_path / "b.onnx")
    (tmp_path / "sommelier.json").write_text('{"models": [{"match": "*", "taks": "x"}]}')
    found = fetch(tmp_path)
    assert names(found) == ["a", "b"]
    (rejection,) = [item for item in found if isinstance(item, Rejection)]
    assert rejection.revision.endswith("sommelier.json")
    assert "unknown key 'taks'" in rejection.reason


def test_a_card_that_was_asked_for_must_be_right(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    card = tmp_path / "x.json"
    card.write_text('{"models": [{"match": "*", "labels": {"file": "no.json", "key": "a"}}]}')
    with pytest.raises(ConnectorError, match=r"no\.json"):
        fetch(tmp_path / "a.onnx", card=card)
    with pytest.raises(ConnectorError, match="cannot read"):
        fetch(tmp_path / "a.onnx", card=tmp_path / "none.json")


@pytest.mark.zoo
def test_the_zoo_card_covers_all_29_models(zoo: Path) -> None:
    found = fetch(zoo / "onnx" / "*.onnx", card=CARD)
    assert len(names(found)) == 29
    for item in found:
        assert isinstance(item, Artifact)
        assert {"task", "family", "license", "output_kind", "tags"} <= set(item.declared)


@pytest.mark.zoo
def test_labels_of_the_zoo_card_fit_the_models_outputs(zoo: Path) -> None:
    """The last axis of the classifiers' output, which the files state, is the number of labels."""
    labelled = 0
    for item in fetch(zoo / "onnx" / "*.onnx", card=CARD):
        assert isinstance(item, Artifact)
        labels = item.declared.get("labels")
        if item.declared["output_kind"] != "classification":
            assert labels is None
            continue
        model = onnx.load(str(item.path), load_external_data=False)
        width = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        assert isinstance(labels, tuple)
        assert len(labels) == len(set(labels)) == width, item.name
        labelled += 1
    assert labelled == 21


@pytest.mark.zoo
def test_byte_counts_of_the_zoo_card_fit_the_magika_inputs(zoo: Path) -> None:
    for item in fetch(zoo / "onnx" / "magika_*.onnx", card=CARD):
        assert isinstance(item, Artifact)
        (name, arguments), _ = item.declared["preprocessing"]  # type: ignore[misc]  # object
        model = onnx.load(str(item.path), load_external_data=False)
        width = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
        assert name == "file_bytes"
        assert arguments["begin"] + arguments["middle"] + arguments["end"] == width


def test_each_of_several_models_gets_the_options_of_its_format(tmp_path: Path) -> None:
    for name in ("a.pt2", "b.keras", "c.tflite", "saved_model.pb"):
        (tmp_path / name).write_bytes(b"model")
    tiny_classifier(tmp_path / "d.onnx")
    found = fetch(tmp_path / "*", inputs="float32[n,3]", signature="serve", trust=True)
    options = {
        item.conversion.format: set(item.conversion.options)
        for item in found
        if isinstance(item, Artifact) and item.conversion
    }
    assert len(found) == 5
    assert options == {
        "torch_export": {"inputs", "trust"},
        "keras": {"trust"},
        "tflite": {"trust"},
        "savedmodel": {"signature", "trust"},
    }


def test_an_option_that_the_only_model_has_no_use_for_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "b.keras").write_bytes(b"model")
    reason = refused(tmp_path / "b.keras", inputs="float32[n,3]")
    assert reason == "the option 'inputs' is not for keras; what is: trust"


def test_a_pattern_is_not_trapped_by_links_and_finds_what_glob_finds(tmp_path: Path) -> None:
    for name in ("a", "sub/b", "sub/deep/c", ".hidden/d", "su[b]/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tiny_classifier(tmp_path / f"{name}.onnx")
    for pattern in ("**/*.onnx", "**/deep/*.onnx", "**/**/*", "s*/**/*.onnx", "su[[]b]/**", "**"):
        there = sorted({*glob.glob(f"{tmp_path}/{pattern}", recursive=True)})  # noqa: PTH207
        models = [path for path in there if path.endswith(".onnx")]
        assert [item.revision for item in fetch(f"{tmp_path}/{pattern}")] == models, pattern
    for link in ("loop", "loop2"):
        (tmp_path / "sub" / link).symlink_to(".")
    assert names(fetch(tmp_path / "**" / "*.onnx")) == ["a", "e", "b", "c"]
    assert names(fetch(tmp_path / "sub" / "loop" / "**" / "c.onnx")) == ["c"]


def test_a_card_that_is_nested_very_deep_stops_no_other_model(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "a.onnx")
    nested = "[" * 900 + "]" * 900
    steps = f'[["x", {{"a": {nested}}}]]'
    (tmp_path / "card.json").write_text(
        f'{{"models": [{{"match": "*", "preprocessing": {steps}}}]}}'
    )
    refused_card, model = fetch(tmp_path)
    assert isinstance(refused_card, Rejection)
    assert "nested more than 50 deep" in refused_card.reason
    assert isinstance(model, Artifact)


def test_names_that_differ_only_in_the_first_of_many_folders_are_told_apart_soon() -> None:
    deep = "a/" * 2000 + "m.onnx"
    before = time.monotonic()
    one, other = distinct_names([PurePosixPath("x", deep), PurePosixPath("y", deep)])
    assert time.monotonic() - before < 2
    assert (one[:4], other[:4], one[-4:]) == ("x/a/", "y/a/", "/a/m")
