"""Steps compute what they say; guesses are marked; Magika's byte features follow its releases."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.preprocessing import apply, fills, inferred, validated
from sommelier.errors import AnalysisError
from sommelier.records import TensorSpec

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def run(item, *steps):
    return apply(validated(steps), item)


def test_the_usual_torch_recipe_is_scale_normalise_and_channels_first():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = run(
        PICTURE,
        ("to_float", {"scale": 1 / 255}),
        ("normalize", {"mean": mean, "std": std}),
        ("layout", {"order": "NCHW"}),
        ("cast", {"dtype": "float32"}),
    )
    expected = ((PICTURE / 255 - mean) / std).transpose(2, 0, 1)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-5)  # float32 rounding


def test_normalising_after_the_layout_step_uses_the_first_axis():
    steps = [("to_float", {}), ("normalize", {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]})]
    late = run(PICTURE, ("layout", {"order": "NCHW"}), *steps)
    early = run(PICTURE, *steps, ("layout", {"order": "NCHW"}))
    assert late == pytest.approx(early, abs=1e-6)


def test_the_short_side_is_resized_and_the_centre_cropped():
    assert run(PICTURE, ("resize_short", {"size": 3})).shape == (3, 4, 3)
    assert run(PICTURE.transpose(1, 0, 2), ("resize_short", {"size": 3})).shape == (4, 3, 3)
    cropped = run(PICTURE, ("center_crop", {"size": [2, 4]}))
    assert np.array_equal(cropped, PICTURE[2:4, 2:6])
    with pytest.raises(AnalysisError, match="cannot crop 7x7 from 6x8"):
        run(PICTURE, ("center_crop", {"size": [7, 7]}))


def test_resizing_floats_and_bytes_agree_up_to_rounding():
    resize = ("resize", {"size": [12, 16]})
    as_float = run(PICTURE.astype(np.float32), resize)
    assert run(PICTURE, resize) == pytest.approx(as_float, abs=1.0)
    assert run(np.full((4, 4, 1), 7, np.uint8), ("resize", {"size": [2, 2]})).tolist() == [
        [[7], [7]],
        [[7], [7]],
    ]


def test_casting_to_integers_rounds_and_saturates():
    values = np.array([-3.0, 0.5, 1.5, 300.0])
    assert run(values, ("cast", {"dtype": "uint8"})).tolist() == [0, 0, 2, 255]
    shifted = run(PICTURE, ("affine", {"scale": 1, "offset": -128}), ("cast", {"dtype": "int8"}))
    assert np.array_equal(shifted, PICTURE.astype(np.int16) - 128)


def test_grey_and_bgr_pictures():
    grey = run(np.full((2, 2, 3), [100, 50, 200], np.uint8), ("grayscale", {}))
    assert grey.tolist() == [[[82], [82]], [[82], [82]]]  # .299 * 100 + .587 * 50 + .114 * 200
    assert np.array_equal(run(PICTURE, ("bgr", {})), PICTURE[..., ::-1])


BYTES = {"begin": 4, "middle": 0, "end": 4, "padding": 256, "block_size": 8}


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        # without a middle part (magika >= 0.6): each end is stripped on its own side
        (b"  ab  ", {}, [97, 98, 32, 32, 32, 32, 97, 98]),
        (b"  ab  ", {"strip": False}, [32, 32, 97, 98, 97, 98, 32, 32]),
        (b"x", {}, [120, 256, 256, 256, 256, 256, 256, 120]),
        (b"", {}, [256] * 8),
        # white space longer than the block leaves an empty beginning, although text follows
        (b" " * 8 + b"abcdefgh", {}, [256, 256, 256, 256, 101, 102, 103, 104]),
        # with a middle part (magika 0.5): a short file is stripped on both ends first
        (b"  ab  ", {"middle": 3}, [97, 98, 256, 256, 97, 98, 256, 256, 256, 97, 98]),
        (b"abcdef", {"middle": 2}, [97, 98, 99, 100, 99, 100, 99, 100, 101, 102]),
    ],
)
def test_bytes_of_a_file_follow_magika(content, arguments, expected):
    assert run(content, ("file_bytes", BYTES | arguments)).tolist() == expected


def test_the_middle_of_a_long_file_is_taken_between_the_stripped_ends():
    content = b"   " + bytes(range(65, 65 + 26)) + b" "  # 30 bytes; 3 and 1 are stripped
    found = run(content, ("file_bytes", BYTES | {"middle": 4}))
    start = 3 + (30 - 3 - 1 - 4) // 2
    assert bytes(found[4:8].tolist()) == content[start : start + 4]
    assert bytes(found[:4].tolist()) == b"ABCD"
    assert bytes(found[8:].tolist()) == b"WXYZ"


@pytest.mark.parametrize(
    ("shape", "wanted", "dtype", "steps"),
    [
        ((32, 32, 3), (None, 32, 32, 3), "float32", ["cast"]),
        ((32, 32, 3), ("n", 32, 32, 3), "uint8", []),
        ((32, 32, 3), (None, 32, 32, 3), "int8", ["affine", "cast"]),
        ((32, 32, 3), ("n", 3, 32, 32), "float32", ["layout", "to_float", "cast"]),
        ((8, 8), ("n", 64), "uint8", ["reshape"]),
        ((8, 8), ("n", 1, 8, 8), "uint8", ["reshape"]),
        ((300, 400, 3), (1, 224, 224, 3), "uint8", ["resize_short", "center_crop"]),
        ((300, 400, 3), (1, 3, 240, 320), "uint8", ["resize", "layout"]),
        ((28, 28, 3), (1, 1, 28, 28), "uint8", ["grayscale", "layout"]),
    ],
)
def test_a_guess_fits_the_model_and_is_marked_as_assumed(shape, wanted, dtype, steps):
    spec = TensorSpec("x", dtype, wanted)
    item = np.zeros(shape, np.uint8)
    found = inferred(item, spec)
    assert found.assumed
    assert [name for name, _ in found.steps] == steps
    made = apply(found, item)
    assert made.dtype == dtype
    assert made.shape == wanted[1:]


@pytest.mark.parametrize("item", [np.zeros((4,)), np.zeros((32, 32, 5)), b"file"])
def test_what_cannot_be_guessed_asks_for_a_declaration(item):
    with pytest.raises(AnalysisError) as caught:
        inferred(item, TensorSpec("x", "float32", (None, 3, 32, 32)))
    assert "declare preprocessing" in caught.value.hint


def test_numbers_are_not_turned_into_text_by_a_guess():
    with pytest.raises(AnalysisError, match="no preprocessing is declared"):
        inferred(np.zeros(4), TensorSpec("text", "str", ("N", 4)))


def test_unknown_steps_and_arguments_list_what_exists():
    with pytest.raises(AnalysisError, match="unknown preprocessing step 'rotate'") as caught:
        validated([("rotate", {})])
    assert "resize_short, resize, center_crop" in caught.value.hint
    with pytest.raises(AnalysisError, match="'normalize' misses std") as caught:
        validated([["normalize", {"mean": [0]}]])
    assert caught.value.hint == "arguments of normalize: mean, std"
    with pytest.raises(AnalysisError, match="unknown filter 'cubic'"):
        run(PICTURE, ("resize", {"size": [2, 2], "filter": "cubic"}))
    with pytest.raises(AnalysisError, match="'resize' has no sizes"):
        validated([["resize", {"size": [1, 1], "sizes": 2}]])
    with pytest.raises(AnalysisError, match="is \\[name, arguments\\]"):
        validated([["resize", 3]])


def test_a_step_that_does_not_fit_the_item_says_which_one():
    with pytest.raises(AnalysisError, match="'normalize' failed on \\(6, 8, 3\\)"):
        run(PICTURE, ("normalize", {"mean": [0, 0], "std": [1, 1]}))
    with pytest.raises(AnalysisError, match="needs a dataset of files"):
        run(PICTURE, ("file_bytes", {}))


def test_constants_for_auxiliary_inputs_are_declared_with_fill():
    spec = validated([("fill", {"name": "sr", "value": 16000}), ("cast", {"dtype": "float32"})])
    assert fills(spec) == {"sr": 16000}
    assert apply(spec, PICTURE).dtype == np.float32
