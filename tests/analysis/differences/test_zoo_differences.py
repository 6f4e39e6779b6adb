"""Real models: quantised forms, separate trainings, a history of versions."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.differences import compare_layers, run_disagreements, weight_lineage

pytestmark = pytest.mark.zoo

QUANTISED = [
    ("ic_resnet8", "ic_resnet8_int8", 0.947),
    ("resnet_large_f", "ic_resnet_large_int8", 0.975),
]


@pytest.fixture(scope="module")
def cifar(zoo):
    with np.load(zoo / "data" / "cifar10_test.npz") as data:
        return data["x"][:2000], data["y"][:2000]


def file(zoo, name):
    return zoo / "onnx" / f"{name}.onnx"


@pytest.mark.parametrize(("reference", "candidate", "agreement"), QUANTISED)
def test_a_quantised_model_is_its_original_with_small_errors(
    zoo, cifar, reference, candidate, agreement
):
    """Every layer has its partner, errors are some percent, answers change as the zoo says."""
    report = compare_layers(file(zoo, reference), file(zoo, candidate), cifar[0], samples=32)
    assert report.related
    assert len(report.layers) == 15
    assert not report.only_reference
    assert not report.only_candidate
    assert all(layer.error < 0.12 and layer.cosine > 0.99 for layer in report.layers)
    assert all(layer.beyond == 0.0 for layer in report.layers[:3])
    assert report.changed == pytest.approx(1 - agreement, abs=0.005)
    assert len(str(report).splitlines()) <= 40


@pytest.mark.parametrize(
    ("reference", "candidate", "relation", "derived"),
    [
        ("ic_resnet8", "ic_resnet8_int8", "quantised", "candidate"),
        ("ic_resnet_large_int8", "resnet_large_f", "quantised", "reference"),
        ("cifar10_resnet20", "cifar10_resnet32", "unrelated", None),
        ("cifar10_resnet44", "cifar10_resnet56", "unrelated", None),
        ("magika_standard_v2_0", "magika_standard_v3_0", "unrelated", None),
        ("mnv2_10_224q", "coral_tf2_mobilenet_v2_1.0_224_ptq", "fine-tuned", None),
        ("version-RFB-320", "version-RFB-640", "unrelated", None),
        ("coral_mobilenet_v1_0.5_160_quant", "coral_mobilenet_v1_0.75_192_quant", "unknown", None),
    ],
)
def test_lineage_of_real_models(zoo, reference, candidate, relation, derived):
    found = weight_lineage(file(zoo, reference), file(zoo, candidate))
    assert (found.relation, found.derived) == (relation, derived), str(found)


def test_versions_from_one_initialisation_are_neither_unrelated_nor_fine_tuned(zoo):
    found = weight_lineage(file(zoo, "magika_standard_v3_1"), file(zoo, "magika_standard_v3_2"))
    assert found.relation == "unknown"
    assert all(0.4 < pair.ratio < 0.95 for pair in found.layers)


def test_separate_training_is_told_from_a_divergence(zoo, cifar):
    report = compare_layers(
        file(zoo, "cifar10_resnet20"), file(zoo, "cifar10_resnet32"), cifar[0][:64], samples=8
    )
    assert not report.related
    assert report.first_divergence is None
    assert len(report.layers) < 36  # blocks of equal form stay unaligned


def test_disagreements_of_real_models_are_those_their_answers_show(zoo, cifar):
    x, y = cifar[0][:300], cifar[1][:300]
    found = run_disagreements(
        file(zoo, "ic_resnet8"), file(zoo, "ic_resnet8_int8"), x, labels=y, limit=None
    )
    assert 5 <= found.total <= 30
    assert {row.right for row in found.rows} <= {"reference", "candidate", "neither"}


def test_detectors_trained_apart_are_not_the_same_network(zoo):
    """Their boxes are near each other, which says nothing about their layers."""
    x = np.random.default_rng(0).normal(size=(2, 3, 240, 320)).astype(np.float32)
    report = compare_layers(file(zoo, "version-RFB-320"), file(zoo, "version-slim-320"), x)
    assert not report.related
    assert report.lineage.relation == "unrelated"


def test_quantised_and_original_are_recognised_without_being_told(zoo, cifar):
    report = compare_layers(
        file(zoo, "ic_resnet8"), file(zoo, "ic_resnet8_int8"), cifar[0][:16], samples=4
    )
    assert report.lineage.relation == "quantised"
    assert report.lineage.derived == "candidate"
