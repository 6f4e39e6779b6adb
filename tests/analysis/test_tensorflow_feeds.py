"""The questions asked of a model of TensorFlow are as hard as the model allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sommelier.analysis.conversion.tensorflow_feeds import answers
from sommelier.analysis.conversion.tensorflow_models import Array, Loaded, Port
from sommelier.errors import RejectedModelError


def loaded(ports: Sequence[Port], answer: Callable[..., Array]) -> Loaded:
    """A model that is a function of arrays."""
    return Loaded(
        tuple(ports), ("y",), lambda _: None, lambda values: [np.asarray(answer(*values))]
    )


def port(name: str, dtype: str, *shape: int | None) -> Port:
    return Port(name, dtype, shape)


def test_batches_differ_and_floats_are_signed_small_and_large() -> None:
    feeds, truths = answers(loaded([port("x", "float32", None, 50)], lambda x: 2 * x))
    assert sorted(len(feed["x"]) for feed in feeds) == [1, 3, 4]
    values = [feed["x"] for feed in feeds]
    assert any((x < 0).any() for x in values)
    assert any(x.min() >= 0 and 0.5 < x.max() < 1 for x in values)
    assert any(x.max() > 200 for x in values)
    for feed, (truth,) in zip(feeds, truths, strict=True):
        np.testing.assert_array_equal(truth, 2 * feed["x"])


def test_an_input_without_axes_is_an_array_too() -> None:
    ports = [port("scale", "float32"), port("flag", "bool"), port("x", "float32", None, 2)]
    feeds, _ = answers(loaded(ports, lambda scale, flag, x: scale * flag * x))
    assert all(isinstance(value, np.ndarray) for feed in feeds for value in feed.values())
    assert [feed["scale"].shape for feed in feeds] == [(), (), ()]


def test_ids_reach_as_far_as_each_input_accepts() -> None:
    words, kinds = np.arange(150.0), np.arange(2.0)
    ports = [port("words", "int32", None, 40), port("kinds", "int64", None, 40)]
    feeds, _ = answers(loaded(ports, lambda w, k: words[w] + kinds[k]))
    most = {name: max(feed[name].max() for feed in feeds) for name in ("words", "kinds")}
    assert 50 < most["words"] < 100
    assert most["kinds"] == 1


def test_open_axes_get_the_first_length_that_is_accepted() -> None:
    def only_64(x: Array) -> Array:
        if x.shape[1] != 64:
            raise ValueError("64 wide")
        return x

    feeds, _ = answers(loaded([port("x", "float32", None, None)], only_64))
    assert {feed["x"].shape[1] for feed in feeds} == {64}


def test_a_batch_that_the_original_refuses_is_left_out() -> None:
    def even(x: Array) -> Array:
        return x.reshape(2, -1, 5)

    feeds, _ = answers(loaded([port("x", "float32", None, 5)], even))
    assert [len(feed["x"]) for feed in feeds] == [4]


@pytest.mark.parametrize(
    "answer",
    [lambda x: np.exp(x / 3), lambda x: np.sin(1e6 * x), lambda x: (1e5 * x).astype(int) % 7],
)
def test_large_numbers_are_left_out_where_answers_depend_on_rounding(
    answer: Callable[[Array], Array],
) -> None:
    feeds, _ = answers(loaded([port("x", "float32", None, 50)], answer))
    assert len(feeds) == 2
    assert max(feed["x"].max() for feed in feeds) < 10


def test_what_fails_on_every_input_is_refused_with_its_reason() -> None:
    def fails(_: Array) -> Array:
        raise ValueError("not today")

    with pytest.raises(RejectedModelError, match=r"fails on random inputs: .*not today"):
        answers(loaded([port("x", "float32", 2)], fails))
