"""A probe set is decided by its id, and its inputs can be made again anywhere."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from sommelier.analysis.datasets import load
from sommelier.analysis.probes import (
    SAMPLES,
    SYNTHETIC_SAMPLES,
    dataset_probes,
    same_probes,
    signature,
    synthetic_item,
    synthetic_probes,
    synthetic_shape,
)
from sommelier.errors import DatasetError
from sommelier.records import TensorSpec


@pytest.fixture
def dataset(tmp_path):
    x = np.arange(3000 * 2, dtype=np.float32).reshape(3000, 2)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(3000) % 7)
    with load(tmp_path / "d.npz", {"labels": list("abcdefg")}) as found:
        yield found


def test_the_default_sample_is_seeded_without_repetition_and_capped(dataset):
    found = dataset_probes(dataset)
    assert found.record.samples == SAMPLES == len(np.unique(found.indices))
    assert np.array_equal(found.indices, np.sort(found.indices))
    assert np.array_equal(found.labels, found.indices % 7)
    assert found.record.label_space_id == dataset.label_space.id
    assert found.classes == 7
    assert not found.record.synthetic


def test_equal_choices_give_equal_ids_and_others_do_not(dataset):
    ids = {
        dataset_probes(dataset, samples=100).record.id,
        dataset_probes(dataset, samples=100, seed=1).record.id,
        dataset_probes(dataset, samples=100, sampling="first").record.id,
        dataset_probes(dataset, samples=101).record.id,
    }
    assert len(ids) == 4
    assert dataset_probes(dataset, samples=100).record.id in ids


def test_a_sample_of_everything_does_not_depend_on_the_seed(dataset):
    whole = dataset_probes(dataset, samples=3000, seed=5)
    assert whole.record == dataset_probes(dataset, samples=3000, sampling="first").record
    assert np.array_equal(whole.indices, np.arange(3000))


def test_a_stored_probe_set_gives_the_same_inputs_again(dataset):
    for options in ({"seed": 3}, {"sampling": "first"}):
        made = dataset_probes(dataset, samples=50, **options)
        again = same_probes(pickle.loads(pickle.dumps(made.record)), dataset.record)
        assert np.array_equal(again.indices, made.indices)
        assert again.record == made.record


def test_impossible_samples_are_refused(dataset):
    with pytest.raises(DatasetError, match="'d' has 3000 items, not 3001"):
        dataset_probes(dataset, samples=3001)
    with pytest.raises(DatasetError, match="sampling = 'last' is not known"):
        dataset_probes(dataset, sampling="last")


def test_synthetic_probes_are_shared_by_signature_not_by_names_or_exported_batch():
    named = synthetic_probes([TensorSpec("image", "float32", ("n", 3, 8, 8))])
    fixed = synthetic_probes([TensorSpec("input:0", "float32", (1, 3, 8, 8))])
    other = synthetic_probes([TensorSpec("image", "float32", ("n", 8, 8, 3))])
    assert named.record == fixed.record != other.record
    assert named.record.synthetic
    assert named.record.name == "synthetic:float32[?,3,8,8]"
    assert named.record.samples == SYNTHETIC_SAMPLES


def test_signatures_show_all_inputs_and_unknown_shapes():
    specs = [TensorSpec("a", "int64", ("N", "T")), TensorSpec("b", "float32", None)]
    assert signature([*specs, TensorSpec("sr", "int64", ())]) == "int64[?,?];float32[...];int64[]"


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 255), ("int8", -128, 127), ("int64", 0, 15), ("bool", 0, 1)],
)
def test_synthetic_integers_stay_in_range_and_are_reproducible(dtype, low, high):
    spec = TensorSpec("x", dtype, ("n", 64, 64))
    item = synthetic_item(spec, seed=0, sample=3, position=0)
    assert item.dtype == dtype
    assert (item.min(), item.max()) == (low, high)  # 4 096 draws hit both ends
    assert np.array_equal(item, synthetic_item(spec, seed=0, sample=3, position=0))
    assert not np.array_equal(item, synthetic_item(spec, seed=0, sample=4, position=0))


def test_synthetic_floats_are_standard_normal():
    item = synthetic_item(TensorSpec("x", "float32", (1, 3, 64, 64)), seed=0, sample=0, position=0)
    assert item.dtype == np.float32
    assert abs(item.mean()) < 4 / np.sqrt(item.size)
    assert item.std() == pytest.approx(1, abs=4 / np.sqrt(2 * item.size))


@pytest.mark.parametrize(
    ("shape", "made"),
    [
        (("n", 3, None, None), (3, 128, 128)),
        (("n", None, None, 3), (128, 128, 3)),
        (("n", "T"), (16,)),
        ((1, 5), (5,)),
    ],
)
def test_dynamic_axes_get_usual_lengths(shape, made):
    assert synthetic_shape(TensorSpec("x", "float32", shape)) == made


def test_text_inputs_have_no_synthetic_probes():
    with pytest.raises(DatasetError, match="cannot be made for input text"):
        synthetic_item(TensorSpec("text", "str", ("n", 2)), seed=0, sample=0, position=0)
