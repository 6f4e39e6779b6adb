"""torchvision's weights as declared rows: read from its source as syntax, never imported."""

from __future__ import annotations

from pathlib import Path

import pytest

import sommelier as sm
from sommelier.connectors.torchvision import MAX_SOURCE_BYTES, TorchvisionConnector
from sommelier.connectors.torchvision_weights import MAX_MODULE_BYTES
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Provenance, Rejection
from tests.asking import rows
from tests.connectors.wheels import write_wheel

META = '_CATEGORIES = ["cat", "dog"]\n_VIDEO = ["run", "run"]\n'
NET = """
from ._meta import _CATEGORIES as _NAMES
from ._api import Weights, WeightsEnum, register_model
open("was-here", "w").write("this module was executed")

_COMMON: dict[str, Any] = {"min_size": (1, 1), "categories": _NAMES}


class Net_Weights(WeightsEnum):
    V1 = Weights(
        url="https://example.org/net-1.pth",
        transforms=partial(ImageClassification, crop_size=224),
        meta={
            **_COMMON,
            "num_params": 25557032,
            "_metrics": {"ImageNet-1K": {"acc@1": 76.13, "acc@5": 92.862}},
            "_ops": 4.089,
            "_file_size": 97.781,
        },
    )
    V2 = Weights(
        url="https://example.org/net-2.pth",
        transforms=partial(ImageClassification, crop_size=232),
        meta={
            **_COMMON,
            "license": "https://example.org/SWAG",
            "num_params": 25557032,
            "_metrics": {"ImageNet-1K": {"acc@1": 80.858}, "ImageNet-V2": {"acc@1": 101.0}},
        },
    )
    DEFAULT = V2


@register_model()
def net(*, weights: Optional[Net_Weights] = None, progress: bool = True) -> Net:
    return Net()
"""
QUANTIZED = """
from .._meta import _CATEGORIES
from ..net import Net_Weights


class Net_QuantizedWeights(WeightsEnum):
    INT8 = Weights(
        url="https://example.org/net-q.pth",
        transforms=partial(ImageClassification, crop_size=224),
        meta={"categories": _CATEGORIES, "num_params": 7, "unquantized": Net_Weights.V1},
    )


@register_model(name="quantized_net")
def net(*, weights: Optional[Union[Net_QuantizedWeights, Net_Weights]] = None) -> Net:
    return Net()
"""
DETECTION = """
from torchvision.models._meta import _CATEGORIES


class Det_Weights(WeightsEnum):
    COCO = Weights(
        url="https://example.org/det.pth",
        transforms=ObjectDetection,
        meta={
            "categories": _CATEGORIES,
            "num_params": 41755286,
            "_metrics": {"COCO-val2017": {"box_map": 37.0}},
        },
    )


class Homeless_Weights(WeightsEnum):
    V1 = Weights(url="x", transforms=ObjectDetection, meta={"num_params": 5})


class Mute_Weights(WeightsEnum):
    V1 = Weights(url="x", transforms=ObjectDetection, meta=load_meta())
    V2 = Weights(url="x", transforms=ObjectDetection, meta={"num_params": 3 * 7, "_ops": True})


def det(weights: Optional[Det_Weights] = None): ...
def mute(weights: Optional[Mute_Weights] = None): ...
"""
SOURCES = {
    "torchvision/models/_api.py": "",
    "torchvision/models/_meta.py": META,
    "torchvision/models/net.py": NET,
    "torchvision/models/quantization/net.py": QUANTIZED,
    "torchvision/models/detection/det.py": DETECTION,
    "torchvision/models/broken.py": "class WeightsEnum(:",
    "torchvision/models/unasked.py": "no Python, and nothing of it is asked for",
    "torchvision/models/circle.py": "from .circle import X\nclass A_Weights(WeightsEnum):\n"
    "    V1 = Weights(meta=X)\ndef a(weights: A_Weights): ...\n",
    "torchvision/models/deep.py": "X = WeightsEnum" + "(" * 5000,
    "torchvision/io.py": NET,
}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small torchvision; tests run where its code would leave a trace."""
    for path, text in SOURCES.items():
        target = tmp_path / "vision" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "vision"


def fetch(location: Path | str) -> list[Artifact | Rejection]:
    return list(TorchvisionConnector().fetch((str(location),), options={}))


def named(location: Path | str) -> dict[str, Artifact]:
    return {item.name: item for item in fetch(location) if isinstance(item, Artifact)}


def test_each_set_of_weights_is_a_row_with_what_is_published_of_it(source: Path) -> None:
    found = named(source)
    assert list(found) == ["det.COCO", "net.V1", "net.V2", "quantized_net.INT8"]
    first = found["net.V1"]
    assert first.path is None
    assert first.revision == f"{source}:Net_Weights.V1"
    assert first.declared == {
        "task": "image-classification",
        "family": "net",
        "tags": ("torchvision", "224px"),
        "output_kind": "classification",
        "labels": ("cat", "dog"),
        "homepage": "https://example.org/net-1.pth",
    }
    numbers = {(m.metric, m.dataset): m.value for m in first.measurements}
    assert numbers == {
        ("params", None): 25557032,
        ("flops", None): 2 * 4.089e9,
        ("size", None): round(97.781 * 2**20),
        ("accuracy", "imagenet"): 0.7613,
        ("top5_accuracy", "imagenet"): 0.92862,
    }
    assert {m.provenance for m in first.measurements} == {Provenance.DECLARED}


def test_rounded_numbers_carry_the_interval_their_digits_stand_for(source: Path) -> None:
    (flops,) = (m for m in named(source)["net.V1"].measurements if m.metric == "flops")
    assert (flops.low, flops.high) == (2 * 4.0885e9, 2 * 4.0895e9)


def test_weights_that_a_builder_takes_by_default_are_tagged(source: Path) -> None:
    found = named(source)
    assert "default" in found["net.V2"].declared["tags"]  # type: ignore[operator]  # object
    assert "default" not in found["net.V1"].declared["tags"]  # type: ignore[operator]  # object
    assert "quantized" in found["quantized_net.INT8"].declared["tags"]  # type: ignore[operator]


def test_an_own_licence_and_other_metrics_are_noted(source: Path) -> None:
    found = named(source)
    assert found["net.V2"].declared["note"] == "licence as stated: https://example.org/SWAG"
    assert found["det.COCO"].declared["note"] == "box_map 37 on COCO-val2017"
    assert found["det.COCO"].declared["task"] == "object-detection"
    assert "labels" not in found["det.COCO"].declared


def test_an_impossible_percentage_is_no_accuracy(source: Path) -> None:
    accuracies = [m for m in named(source)["net.V2"].measurements if m.metric == "accuracy"]
    assert [(m.value, m.dataset) for m in accuracies] == [(0.80858, "imagenet")]


def test_what_cannot_be_read_is_rejected_with_its_reason(source: Path) -> None:
    refused = {
        i.revision.partition(":")[2]: i.reason for i in fetch(source) if isinstance(i, Rejection)
    }
    assert set(refused) == {
        "broken", "deep", "A_Weights.V1", "Homeless_Weights.V1", "Mute_Weights.V1",
        "Mute_Weights.V2",
    }  # fmt: skip
    assert "not Python" in refused["broken"]
    assert "not Python" in refused["deep"]
    assert "no function takes" in refused["Homeless_Weights.V1"]
    assert "no number" in refused["Mute_Weights.V2"]


def test_nothing_of_the_source_is_executed(source: Path) -> None:
    assert named(source)
    assert not list(source.parent.rglob("was-here"))


def test_a_wheel_says_the_same_as_the_folder(source: Path, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {path: text.encode() for path, text in SOURCES.items()})
    packed, unpacked = named(wheel), named(source)
    assert [(i.declared, i.name) for i in packed.values()] == [
        (i.declared, i.name) for i in unpacked.values()
    ]
    assert list(named(source / "torchvision")) == list(unpacked)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("0.28.0", "no folder '0.28.0'"),
        ("torchvision>=0.2==", "no exact version"),
        (".", "holds no"),
    ],
)
def test_what_is_no_torchvision_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectorError, match=words):
        fetch(location)


def test_rows_answer_questions_like_any_other_model(source: Path, tmp_path: Path) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM torchvision '{source}'")
        found = rows(
            db,
            "SELECT MODELS name, accuracy WHERE task = 'image-classification' "
            "AND accuracy > 70% ON 'imagenet' ORDER BY accuracy DESC",
        )
    assert [tuple(row.values()) for row in found] == [("net.V2", 0.80858), ("net.V1", 0.7613)]


def enum(*metas: str) -> str:
    """A module that states weights with these metas."""
    entries = "".join(f"    V{i} = Weights(meta={meta})\n" for i, meta in enumerate(metas))
    return f"class Net_Weights(WeightsEnum):\n{entries}\n\ndef net(weights: Net_Weights): ...\n"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "wheel"])
def test_a_source_of_many_modules_is_refused_before_any_is_read(
    tmp_path: Path, packed: bool
) -> None:
    half = b"#" + b" " * (MAX_SOURCE_BYTES // 2)
    members = {"torchvision/models/a.py": half, "torchvision/models/b.py": half}
    if packed:
        location = write_wheel(tmp_path, members)
    else:
        location = tmp_path / "vision"
        for path, content in members.items():
            (location / path).parent.mkdir(parents=True, exist_ok=True)
            (location / path).write_bytes(content)
    with pytest.raises(ConnectorError, match="the limit is 2 MB"):
        fetch(location)


def test_a_module_too_large_for_source_code_is_refused_alone(tmp_path: Path) -> None:
    dense = enum('{"num_params": 5}') + "a\n" * (MAX_MODULE_BYTES // 2)
    members = {"a.py": dense.encode(), "b.py": enum('{"num_params": 5}').encode()}
    wheel = write_wheel(tmp_path, {f"torchvision/models/{k}": v for k, v in members.items()})
    refused, good = fetch(wheel)
    assert isinstance(refused, Rejection)
    assert "too large" in refused.reason
    assert isinstance(good, Artifact)


def test_only_modules_that_speak_of_weights_are_parsed(tmp_path: Path) -> None:
    good = enum('{"num_params": 5}')
    sources = {"a.py": "not Python", "b.py": good, "c.py": "from .a import X"}
    found = fetch(write_wheel(tmp_path, {f"torchvision/models/{n}": s.encode()
                                         for n, s in sources.items()}))  # fmt: skip
    assert [item.name for item in found if isinstance(item, Artifact)] == ["net.V0"]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("M0 = {}\n" + "".join(f"M{i} = {{**M{i - 1}, 'k{i}': 1}}\n" for i in range(1, 2000))
         + enum(*(f"M{i}" for i in range(0, 2000, 100))), "more than 1000000 values"),
        ("".join(f"X{i} = X{i + 1}\n" for i in range(2000)) + enum("X0"), "nested too deeply"),
    ],
    ids=["each constant repeats the one before", "each constant is the next"],
)  # fmt: skip
def test_constants_that_unfold_without_end_are_refused(
    tmp_path: Path, source: str, words: str
) -> None:
    *_, found = fetch(write_wheel(tmp_path, {"torchvision/models/net.py": source.encode()}))
    assert isinstance(found, Rejection)
    assert words in found.reason


def test_a_number_that_no_float_holds_is_left_out(tmp_path: Path) -> None:
    huge = f"0x{'f' * 5000}"
    source = enum(f'{{"num_params": {huge}, "_ops": {huge}, "_file_size": 2}}')
    (found,) = fetch(write_wheel(tmp_path, {"torchvision/models/net.py": source.encode()}))
    assert isinstance(found, Artifact)
    assert [m.metric for m in found.measurements] == ["size"]


@pytest.mark.network
def test_a_real_release_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path))
    items = fetch("torchvision==0.28.0")
    found = {item.name: item for item in items if isinstance(item, Artifact)}
    assert len(found) == len(items) == 166
    resnet = {m.metric: m.value for m in found["resnet50.IMAGENET1K_V2"].measurements}
    assert (resnet["params"], resnet["accuracy"]) == (25557032, 0.80858)
    assert len(found["resnet50.IMAGENET1K_V2"].declared["labels"]) == 1000  # type: ignore[arg-type]  # object
