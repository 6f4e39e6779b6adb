from __future__ import annotations

import json
import re
import resource
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from sommelier.connectors.archives import ArchiveLimits
from sommelier.connectors.wheel import WheelConnector
from sommelier.connectors.wheel_archive import opened
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.records import Artifact, Rejection
from sommelier.storage.cache import cache_folder
from tests.connectors.wheels import METADATA, write_wheel
from tests.factories import external_data_model, tiny_classifier


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sommelier"


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return tiny_classifier(tmp_path / "source.onnx").read_bytes()


def fetch(*locations: Path | str, **options: object) -> list[Artifact | Rejection]:
    return list(WheelConnector().fetch(tuple(map(str, locations)), options=options))


def only(*locations: Path | str, **options: object) -> Artifact:
    (item,) = fetch(*locations, **options)
    assert isinstance(item, Artifact), item
    return item


def refused(*locations: Path | str, **options: object) -> str:
    (item,) = fetch(*locations, **options)
    assert isinstance(item, Rejection), item
    return item.reason


def test_one_model_is_called_like_its_package(tmp_path: Path, model: bytes, cache: Path) -> None:
    wheel = write_wheel(tmp_path, {"toy/data/net.onnx": model})
    item = only(wheel)
    assert (item.name, item.version) == ("toy-models", "1.0")
    assert item.revision == f"{wheel.name}:toy/data/net.onnx"
    assert item.declared == {
        "family": "toy-models",
        "license": "MIT",
        "homepage": "https://example.org/toy_models",
        "note": "A toy — for tests",
    }
    assert item.path is not None
    assert item.path.read_bytes() == model
    assert item.path.is_relative_to(cache)


def test_several_models_are_called_package_and_stem(tmp_path: Path, model: bytes) -> None:
    members = {"toy/a/sig.onnx": model, "toy/b/sig.onnx": model + b"", "toy/bak.onnx": model}
    found = fetch(write_wheel(tmp_path, members))
    assert [item.name for item in found if isinstance(item, Artifact)] == [
        "toy-models/a/sig",
        "toy-models/b/sig",
        "toy-models/bak",
    ]
    for item in found:
        assert isinstance(item, Artifact)
        assert item.path is not None
        assert item.path.read_bytes() == model


def test_releases_of_a_package_are_versions_of_one_family(tmp_path: Path, model: bytes) -> None:
    other = tiny_classifier(tmp_path / "other.onnx", seed=1).read_bytes()
    write_wheel(tmp_path, {"toy/net.onnx": model}, version="1.0")
    write_wheel(tmp_path, {"toy/net.onnx": other}, version="2.0")
    found = fetch(tmp_path / "toy_models-*.whl")
    assert [(i.name, i.version) for i in found if isinstance(i, Artifact)] == [
        ("toy-models", "1.0"),
        ("toy-models", "2.0"),
    ]
    assert {i.declared["family"] for i in found if isinstance(i, Artifact)} == {"toy-models"}


def test_equal_contents_are_kept_once(tmp_path: Path, model: bytes, cache: Path) -> None:
    write_wheel(tmp_path, {"toy/net.onnx": model}, version="1.0")
    write_wheel(tmp_path, {"toy/net.onnx": model}, version="2.0")
    first, second = fetch(tmp_path / "toy_models-*.whl")
    assert isinstance(first, Artifact)
    assert isinstance(second, Artifact)
    assert first.path == second.path
    assert len(list((cache / "models").iterdir())) == 1


def test_a_wheel_in_the_cache_needs_no_network(
    model: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "wheels").mkdir(parents=True)
    write_wheel(cache / "wheels", {"toy/net.onnx": model}, version="1.0")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")  # nothing can be started
    item = only("Toy.Models == 1.0")
    assert (item.name, item.version) == ("toy-models", "1.0")
    assert item.revision == "toy-models==1.0:toy/net.onnx"


def test_pip_fetches_from_the_place_it_is_configured_with(
    tmp_path: Path, model: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of wheels stands in for an index: what pip is told is the user's business."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    write_wheel(shelf, {"toy/net.onnx": model}, metadata=METADATA + "Requires-Dist: torch\n")
    with zipfile.ZipFile(shelf / "toy_models-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("toy_models-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("toy_models-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert only("toy-models==1.0").version == "1.0"
    assert [path.name for path in (cache / "wheels").iterdir()] == [
        "toy_models-1.0-py3-none-any.whl"
    ]
    missing, still = fetch("toy-models==9.9", "toy-models==1.0")
    assert isinstance(missing, Rejection)
    assert "No matching distribution found for toy-models==9.9" in missing.reason
    assert isinstance(still, Artifact)


def test_a_pip_in_the_folder_we_are_in_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pip", "json"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert "No matching distribution" in refused("toy-models==9.9")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("location", "message", "hint"),
    [
        ("magika", "names no exact version", "name==1.2.3"),
        ("magika>=1.0", "names no exact version", "name==1.2.3"),
        ("magika==1.*", "names no exact version", "name==1.2.3"),
        ("magika[cli]==1.0.3", "asks for extras", "magika==1.0.3"),
        ("--index-url=http://evil==1", "names no exact version", "name==1.2.3"),
        ("magika==1.0 --pre", "names no exact version", "name==1.2.3"),
        ("./nowhere.whl", "there is no wheel", None),
    ],
)
def test_a_location_that_is_not_one_wheel_is_refused_before_anything_is_fetched(
    location: str, message: str, hint: str | None
) -> None:
    with pytest.raises(ConnectorError, match=message) as caught:
        fetch(location)
    assert hint is None or hint in str(caught.value.hint)


def test_external_data_comes_along(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    data = tmp_path / "m.onnx.data"
    members = {"toy/m.onnx": path.read_bytes(), "toy/m.onnx.data": data.read_bytes()}
    item = only(write_wheel(tmp_path, members))
    assert item.path is not None
    assert item.declared["external_data"] == [str(item.path.parent / "m.onnx.data")]
    assert (item.path.parent / "m.onnx.data").read_bytes() == data.read_bytes()


def test_same_graph_with_other_external_weights_is_kept_apart(tmp_path: Path) -> None:
    paths = set()
    for seed in (0, 1):
        path = external_data_model(tmp_path / "m.onnx", seed=seed)
        data = (tmp_path / "m.onnx.data").read_bytes()
        members = {"toy/m.onnx": path.read_bytes(), "toy/m.onnx.data": data}
        paths.add(only(write_wheel(tmp_path, members, version=f"{seed}")).path)
    assert len(paths) == 2


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../../outside.bin", "outside the model's folder"),
        ("/etc/passwd", "absolute path"),
        ("missing.bin", "missing"),
    ],
)
def test_external_data_cannot_lead_out_of_the_wheel(
    location: str, reason: str, tmp_path: Path
) -> None:
    path = external_data_model(tmp_path / "m.onnx", location=location)
    wheel = write_wheel(tmp_path, {"toy/m.onnx": path.read_bytes(), "outside.bin": bytes(10**5)})
    assert reason in refused(wheel)


def test_a_member_named_to_escape_is_rejected_and_writes_nothing(
    tmp_path: Path, model: bytes, cache: Path
) -> None:
    for name in ("../../../evil.onnx", "/tmp/evil.onnx", "a\\..\\evil.onnx"):
        assert "outside of itself" in refused(write_wheel(tmp_path, {name: model}))
    assert not list(tmp_path.rglob("evil*"))
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_links_and_doubled_names_are_rejected(tmp_path: Path, model: bytes) -> None:
    link = zipfile.ZipInfo("toy/a.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = tmp_path / "links-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "is a link" in refused(path)
    path = tmp_path / "twice-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/a.onnx", model)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("toy/a.onnx", b"other")
    assert "twice" in refused(path)


def test_a_zip_bomb_is_rejected_unopened(tmp_path: Path, cache: Path) -> None:
    wheel = write_wheel(tmp_path, {"toy/a.onnx": bytes(70 * 10**6)})
    assert wheel.stat().st_size < 10**5
    assert "times its size" in refused(wheel)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_members_that_are_small_alone_are_a_bomb_together(tmp_path: Path, cache: Path) -> None:
    zeros = {f"toy/{n}.onnx": bytes(20 * 10**6) for n in range(4)}
    assert "the wheel would unpack to" in refused(write_wheel(tmp_path, zeros))
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_all_that_is_copied_out_of_a_wheel_has_a_limit(tmp_path: Path, model: bytes) -> None:
    """Several models may name the same external file, so the sum of the members is no bound."""
    wheel = write_wheel(tmp_path, {"toy/a.onnx": model, "toy/b.onnx": model, "toy/c.onnx": model})
    store = tmp_path / "store"
    with opened(wheel, limits=ArchiveLimits(bytes=2 * len(model))) as archive:
        for member in archive.models()[:2]:
            assert archive.extract(member, store, max_size=10**9).is_file()
        with pytest.raises(RejectedModelError, match="models of the wheel unpack to more than"):
            archive.extract(archive.models()[2], store, max_size=10**9)


def test_a_disk_that_takes_no_more_is_told_and_nothing_is_left(
    tmp_path: Path, model: bytes, cache: Path
) -> None:
    wheel = write_wheel(tmp_path, {"toy/NET.ONNX": model})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(model) // 2, hard))  # as a full disk does
    try:
        with pytest.raises(ConnectorError, match=re.escape(str(cache))) as caught:
            fetch(wheel)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "SOMMELIER_CACHE" in str(caught.value.hint)
    assert list((cache / "models").iterdir()) == []
    assert only(wheel).path is not None


def test_weights_cannot_lie_below_the_model_as_if_it_were_a_folder(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx", location="m.onnx/data")
    members = {"t/m.onnx": path.read_bytes(), "t/m.onnx/data": bytes(10**5)}
    assert "overlaps another file" in refused(write_wheel(tmp_path, members))


def test_max_size_holds_for_a_model_and_its_external_data(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx.data").read_bytes()
    wheel = write_wheel(tmp_path, {"t/m.onnx": path.read_bytes(), "t/m.onnx.data": data})
    total = path.stat().st_size + len(data)
    assert "too large" in refused(wheel, max_size=total - 1)
    assert only(wheel, max_size=total)


def test_damaged_wheels_are_rejected(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    path.write_bytes(b"not a zip")
    assert "not a wheel" in refused(path)
    wheel = write_wheel(tmp_path, {"toy/a.onnx": model}, compression=zipfile.ZIP_STORED)
    content = bytearray(wheel.read_bytes())
    content[content.index(model) + 20] ^= 0xFF
    wheel.write_bytes(content)
    assert "damaged" in refused(wheel)


def test_damage_of_any_compression_is_told(tmp_path: Path, model: bytes) -> None:
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        wheel = write_wheel(tmp_path, {"toy/a.onnx": model}, compression=compression)
        content = bytearray(wheel.read_bytes())
        content[60:120] = bytes(60)  # after the header and the name
        wheel.write_bytes(content)
        assert "damaged" in refused(wheel)


def test_a_bad_model_does_not_stop_the_others(tmp_path: Path, model: bytes) -> None:
    wheel = write_wheel(tmp_path, {"t/a.onnx": b"", "t/b.onnx": b"junk", "t/c.onnx": model})
    assert [type(item) for item in fetch(wheel)] == [Rejection, Rejection, Artifact]


def test_a_wheel_without_onnx_says_what_it_holds(tmp_path: Path) -> None:
    reason = refused(write_wheel(tmp_path, {"t/a.tflite": b"x", "t/b.tflite": b"y", "t/c.py": b""}))
    assert "no .onnx file" in reason
    assert "2 .tflite" in reason


def test_code_in_a_wheel_is_never_run(tmp_path: Path, model: bytes) -> None:
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')".encode()
    wheel = write_wheel(tmp_path, {"toy/__init__.py": code, "setup.py": code, "toy/a.onnx": model})
    assert only(wheel)
    assert not marker.exists()
    assert "toy" not in sys.modules


def test_name_and_version_come_from_the_file_name_when_metadata_is_missing(
    tmp_path: Path, model: bytes
) -> None:
    item = only(write_wheel(tmp_path, {"toy/a.onnx": model}, metadata=""))
    assert (item.name, item.version) == ("toy-models", "1.0")
    assert "license" not in item.declared


@pytest.mark.parametrize(
    ("header", "license"),
    [
        ("License: Apache 2.0", "Apache-2.0"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License-Expression: MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: ISC License (ISCL)", "ISC"),
        ("License: see LICENSE.txt", None),
        ("License: UNKNOWN", None),
    ],
)
def test_licences_of_metadata_become_spdx(
    header: str, license: str | None, tmp_path: Path, model: bytes
) -> None:
    metadata = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + header + "\n"
    item = only(write_wheel(tmp_path, {"toy/a.onnx": model}, metadata=metadata))
    assert item.declared.get("license") == license
    assert ("note" in item.declared) == (header == "License: see LICENSE.txt")


def test_a_users_card_may_point_into_the_wheel(tmp_path: Path, model: bytes) -> None:
    card = tmp_path / "card.json"
    entries = [
        {
            "match": "toy/v1/*",
            "task": "t",
            "labels": {"file": "config.json", "key": "labels"},
            "preprocessing": [["resize", {"size": {"file": "/toy/all.json", "key": "size"}}]],
        }
    ]
    card.write_text(json.dumps({"models": entries}))
    members = {
        "toy/v1/model.onnx": model,
        "toy/v1/config.json": b'{"labels": ["a", "b", "c"]}',
        "toy/all.json": b'{"size": [8, 8]}',
    }
    declared = only(write_wheel(tmp_path, members), card=card).declared
    assert declared["labels"] == ("a", "b", "c")
    assert declared["preprocessing"] == (("resize", {"size": [8, 8]}),)


def test_a_card_reference_a_wheel_does_not_have_is_noted(tmp_path: Path, model: bytes) -> None:
    """The built-in card of magika, on a wheel laid out differently from the releases known."""
    members = {"magika/models/standard_v3_9/model.onnx": model}
    item = only(write_wheel(tmp_path, members, name="magika", version="9.0"))
    assert item.declared["task"] == "file-content-type"
    assert "labels" not in item.declared
    assert "the wheel has no file" in str(item.declared["note"])


def test_the_cache_follows_the_xdg_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/sommelier")


@pytest.mark.network
def test_real_magika_releases_state_their_labels_and_preprocessing() -> None:
    found = fetch("magika==0.5.1", "magika==0.6.1", "magika==1.0.3")
    sizes = {}
    for item in found:
        assert isinstance(item, Artifact), item
        assert item.name == "magika"
        assert item.declared["license"] == "Apache-2.0"
        (step, arguments), (_, cast) = item.declared["preprocessing"]  # type: ignore[misc]  # object
        assert step == "file_bytes"
        parts = tuple(arguments[key] for key in ("begin", "middle", "end"))
        sizes[item.version] = (len(item.declared["labels"]), parts, cast["dtype"])  # type: ignore[arg-type]  # object
    assert sizes == {
        "0.5.1": (113, (512, 512, 512), "float32"),
        "0.6.1": (214, (1024, 0, 1024), "int32"),
        "1.0.3": (214, (1024, 0, 1024), "int32"),
    }


@pytest.mark.network
def test_other_real_wheels_come_with_task_and_licence() -> None:
    found = fetch("swift-f0==0.3.0", "text2tashkeel==0.1.0", "silero-vad==5.1.2")
    facts = {i.name: i.declared for i in found if isinstance(i, Artifact)}
    assert len(facts) == len(found) == 8
    assert facts["swift-f0"]["license"] == facts["silero-vad/silero_vad"]["license"] == "MIT"
    assert facts["text2tashkeel/rawi_v2.int8"]["task"] == "arabic-diacritization"
    assert len(facts["text2tashkeel/rawi_v2.int8"]["labels"]) == 75  # type: ignore[arg-type]  # object


def test_names_are_shown_without_signs_that_speak_to_a_terminal(
    tmp_path: Path, model: bytes
) -> None:
    metadata = METADATA.replace("MIT", "\x1b[31mmine")
    wheel = write_wheel(tmp_path, {"ok.onnx": model, "\x1b[2J.onnx": b""}, metadata=metadata)
    with zipfile.ZipFile(wheel, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("\x1b[2J.onnx", b"")
    found = fetch(wheel)
    assert "the wheel has '_[2J.onnx' twice" in [getattr(item, "reason", "") for item in found]
    assert "\\x1b" not in repr(found)
