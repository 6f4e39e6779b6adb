"""Packed ids against a plain list of text."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sommelier.storage.model_ids import ABSENT, ModelIds


def usual(number: int) -> str:
    """An id; of a few of them the first 64 bits are alike."""
    digits = hashlib.sha256(str(number).encode()).hexdigest()
    return "sha256:" + ("0" * 16 + digits[16:] if number % 5 == 0 else digits)


IDS = st.lists(
    st.integers(0, 60).map(usual)
    | st.sampled_from(["a", "m@1", "sha256:12", "SHA256:" + "0" * 64]),
    unique=True,
    max_size=40,
)


@given(ids=IDS, cut=st.integers(0, 40))
def test_packed_ids_are_the_list_they_were_made_from(ids: list[str], cut: int) -> None:
    packed = ModelIds(ids[:cut]).followed_by(ids[cut:])
    assert (packed.tolist(), len(packed)) == (ids, len(ids))
    assert packed == ModelIds(ids)
    assert packed.begins_with(ModelIds(ids[:cut]))
    assert [packed.row(i) for i in ids] == list(range(len(ids)))
    assert packed.rows([*ids, "none", usual(99)]).tolist() == [*range(len(ids)), ABSENT, ABSENT]
    for row in range(len(ids)):
        assert packed[row] == packed[row - len(ids)] == ids[row]
    mask = np.arange(len(ids)) % 2 == 0
    assert packed[mask].tolist() == ids[::2] == packed[::2].tolist()


def test_other_beginnings_are_told_apart() -> None:
    zeros = "sha256:" + "0" * 64
    assert not ModelIds(["a", "b"]).begins_with(ModelIds([zeros]))
    assert not ModelIds([zeros, "b"]).begins_with(ModelIds(["a"]))
    assert not ModelIds([usual(1)]).begins_with(ModelIds([usual(1), usual(2)]))
    assert ModelIds([usual(1)]) != ModelIds([usual(2)])


def test_a_row_beyond_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        ModelIds(["a"])[1]


def test_an_id_takes_less_than_forty_bytes() -> None:
    ids = [usual(number) for number in range(1, 1_000)]
    assert ModelIds(ids).nbytes / len(ids) < 40


@pytest.mark.parametrize("zeros", [0, 16, 32, 48])
def test_ids_that_somebody_numbered_have_keys_of_their_own(zeros: int) -> None:
    """Else finding one costs a look at all that share its key."""
    ids = [f"sha256:{number:0{64 - zeros}x}" + "0" * zeros for number in range(1_000)]
    packed = ModelIds(ids[:500]).followed_by(ids[500:])
    assert packed.rows(ids).tolist() == list(range(1_000))
    assert packed.tolist() == ids
    assert len(np.unique(packed._keys)) == 1_000


def test_an_id_of_zeros_is_not_an_id_of_another_form() -> None:
    zeros = "sha256:" + "0" * 64
    packed = ModelIds(["a", "b", zeros]).followed_by(["c"])
    assert packed.rows(["c", zeros, "a", "b"]).tolist() == [3, 2, 0, 1]
    assert packed.tolist() == ["a", "b", zeros, "c"]
    assert ModelIds(["a", "b"]).row(zeros) == ABSENT
