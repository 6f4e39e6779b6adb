"""Real files: all are understood, and every trap of the zoo's README is met without a stumble."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasketch import LeanMinHash

from sommelier.analysis import fingerprint, latency
from sommelier.analysis.inspection import Inspection, Inspector
from sommelier.analysis.sandbox import Sandbox
from sommelier.records import Artifact, OutputKind

pytestmark = pytest.mark.zoo

# Multiply-accumulates that papers and model cards state, in millions.
PUBLISHED_MMACS = {
    "ic_resnet8": 12.5,  # MLPerf Tiny
    "cifar10_resnet20": 40.8,  # He et al. 2016 family, as counted by its repository
    "cifar10_resnet56": 125.7,
    "mnv2_10_224q": 300,  # Sandler et al. 2018
    "mnv1_025_128q": 14,  # Howard et al. 2017: 41 at 224 pixels, x (128/224)^2
    "coral_mobilenet_v1_0.5_160_quant": 76,
    "coral_mobilenet_v1_0.75_192_quant": 233,
}


@pytest.fixture(scope="module")
def inspected(zoo: Path) -> Iterator[dict[str, Inspection]]:
    with Inspector() as inspector:
        yield {
            path.stem: inspector.inspect(Artifact(path.stem, None, "folder", str(path), path))
            for path in sorted((zoo / "onnx").glob("*.onnx"))
        }


def numbers(found: Inspection) -> dict[str, float]:
    return {m.metric: m.value for m in found.measurements}


def test_all_files_are_understood(inspected: dict[str, Inspection]) -> None:
    assert len(inspected) == 29
    for name, found in inspected.items():
        assert set(numbers(found)) == {
            "params", "size", "flops", "layers", "activation_memory", "memory",
        }, name  # fmt: skip
        assert found.profile is not None
        assert found.record.note is None
        assert all(value > 0 for value in numbers(found).values())


def test_ids_are_the_checksums_of_the_files(zoo: Path, inspected: dict[str, Inspection]) -> None:
    lines = (zoo / "SHA256SUMS").read_text().splitlines()
    sums = {Path(line.split()[-1]).stem: line.split()[0] for line in lines if ".onnx" in line}
    for name, found in inspected.items():
        assert found.record.id == f"sha256:{sums[name]}"


@pytest.mark.parametrize("name", PUBLISHED_MMACS)
def test_flops_match_model_cards(inspected: dict[str, Inspection], name: str) -> None:
    assert numbers(inspected[name])["flops"] == pytest.approx(2e6 * PUBLISHED_MMACS[name], rel=0.04)


@pytest.mark.parametrize(
    ("name", "params"),
    [("cifar10_resnet20", 0.27e6), ("cifar10_resnet56", 0.86e6), ("magika_standard_v3_3", 784_519)],
)
def test_params_match_model_cards(
    inspected: dict[str, Inspection], name: str, params: float
) -> None:
    assert numbers(inspected[name])["params"] == pytest.approx(params, rel=0.02)


KINDS = {
    "cifar10": OutputKind.CLASSIFICATION,
    "ic_resnet": OutputKind.CLASSIFICATION,
    "coral": OutputKind.CLASSIFICATION,
    "mnv": OutputKind.CLASSIFICATION,
    "magika": OutputKind.CLASSIFICATION,
    "version": OutputKind.DETECTION,
    "yunet": OutputKind.DETECTION,
    "FastestDet": OutputKind.DETECTION,
    "fsanet": OutputKind.REGRESSION,
}


def test_output_kinds_are_what_the_models_are(inspected: dict[str, Inspection]) -> None:
    for name, found in inspected.items():
        prefix = next((p for p in KINDS if name.startswith(p)), "cifar10")
        assert found.record.output_kind is KINDS[prefix], name
        assert found.record.output_kind_inferred


def test_dynamic_names_and_punctuation_are_kept(inspected: dict[str, Inspection]) -> None:
    spec = inspected["resnet_large_f"].record.inputs[0]
    assert (spec.name, spec.shape) == ("serving_default_input_5:0", ("unk__126", 32, 32, 3))
    answer = inspected["mnv2_10_224q"].record.outputs[0]
    assert (answer.name, answer.dtype) == ("MobilenetV2/Predictions/Softmax", "uint8")


def test_quantised_twins_have_equal_work_and_a_quarter_of_the_memory(
    inspected: dict[str, Inspection],
) -> None:
    for floats, integers in (("ic_resnet8", "ic_resnet8_int8"),
                             ("resnet_large_f", "ic_resnet_large_int8")):  # fmt: skip
        a, b = numbers(inspected[floats]), numbers(inspected[integers])
        assert a["flops"] == b["flops"]
        assert b["params"] == pytest.approx(a["params"], rel=0.02)
        assert b["size"] == pytest.approx(a["size"] / 4, rel=0.05)
        assert b["activation_memory"] == pytest.approx(a["activation_memory"] / 4, rel=0.05)


def test_a_version_history_shares_its_graph_and_not_its_weights(
    inspected: dict[str, Inspection],
) -> None:
    records = [inspected[f"magika_standard_v3_{i}"].record for i in range(4)]
    assert len({r.graph_hash for r in records}) == 1
    assert len({r.weight_hash for r in records}) == 4
    older = inspected["magika_standard_v2_1"].record
    assert older.graph_hash != records[0].graph_hash


def test_structural_similarity_sees_families(inspected: dict[str, Inspection]) -> None:
    def alike(a: str, b: str) -> float:
        first, second = (inspected[n].record.minhash for n in (a, b))
        assert first is not None
        assert second is not None
        return float(LeanMinHash.deserialize(first).jaccard(LeanMinHash.deserialize(second)))

    assert alike("magika_standard_v3_2", "magika_standard_v3_3") == 1.0
    assert alike("cifar10_resnet44", "cifar10_resnet56") > 0.6
    assert alike("cifar10_resnet20", "FastestDet") < 0.3


def test_equal_signatures_do_not_make_equal_models(inspected: dict[str, Inspection]) -> None:
    a, b = inspected["cifar10_resnet20"].record, inspected["cifar10_resnet56"].record
    assert (a.inputs, a.outputs) == (b.inputs, b.outputs)
    assert a.graph_hash != b.graph_hash


def test_equal_bytes_under_two_names_have_one_id(zoo: Path, tmp_path: Path) -> None:
    source = zoo / "onnx" / "ic_resnet8.onnx"
    copy = tmp_path / "another_name.onnx"
    copy.write_bytes(source.read_bytes())
    expected = f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}"
    assert fingerprint.content_fingerprint(copy) == expected


def test_latency_does_not_follow_parameter_count(zoo: Path) -> None:
    """Magika v2.0 has 0.8 M weights and MobileNet v2 3.5 M, and it is the slower one."""
    with Sandbox(time_limit_s=60) as box:
        slow, fast = (
            box.call(latency.measure, zoo / "onnx" / f"{name}.onnx", runs=10)[0].value
            for name in ("magika_standard_v2_0", "mnv2_10_224q")
        )
    assert slow > fast
