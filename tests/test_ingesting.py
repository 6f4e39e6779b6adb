"""Connection.ingest: a module of one's own in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import sommelier as sm
from sommelier.errors import BinderError, ReadOnlyError, RejectedModelError
from tests import torch_models as made


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    with sm.connect(tmp_path / "m.sommelier") as connection:
        yield connection


class Pair(nn.Module):
    """Two inputs, two outputs by name."""

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"product": left @ right.transpose(1, 2), "more": right + 1}


class Branching(nn.Module):
    """What it does depends on the numbers it is given, which no graph can say."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x * 3


class Fixed(nn.Module):
    """Takes one sample at a time."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            raise ValueError("one at a time")
        return x * 2


def _run(db: sm.Connection, model: sm.connection.model.Model, **inputs: Tensor) -> list[np.ndarray]:
    assert model.record.artifact is not None
    session = onnxruntime.InferenceSession(str(db.artifacts.path(model.record.artifact)))
    return list(session.run(None, {name: value.numpy() for name, value in inputs.items()}))


def test_a_module_is_ingested_from_one_example_and_answers_for_any_batch(
    db: sm.Connection,
) -> None:
    module = made.net().train()
    model = db.ingest(
        module, example_inputs=made.images(1), name="mine", task="toys", labels=list("abcd")
    )
    assert module.training
    given = made.images(5)
    with torch.no_grad():
        wanted = module.eval()(given).numpy()
    np.testing.assert_allclose(_run(db, model, image=given)[0], wanted, atol=1e-5)
    row = db.sql("SELECT name, task, source FROM models").rows[0]
    assert tuple(row) == ("mine", "toys", "ingest")
    again = db.ingest(module, example_inputs=made.images(1), name="mine")
    assert again.record.id == model.record.id
    other = db.ingest(made.net(1), example_inputs=[made.images(2)], name="mine")
    assert (other.record.name, other.record.version) == ("mine", "2")


def test_several_inputs_are_given_by_name_and_outputs_keep_theirs(db: sm.Connection) -> None:
    left, right = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    model = db.ingest(Pair(), example_inputs={"right": right, "left": left}, name="pair")
    assert [spec.name for spec in model.record.inputs] == ["left", "right"]
    assert [spec.name for spec in model.record.outputs] == ["product", "more"]
    found = _run(db, model, left=left, right=right)
    np.testing.assert_allclose(found[0], (left @ right.transpose(1, 2)).numpy(), atol=1e-5)


def test_a_module_that_decides_by_the_numbers_it_is_given_is_refused_with_the_place(
    db: sm.Connection,
) -> None:
    for examples in (torch.ones(2, 3), torch.rand(2, 3) + 1):
        with pytest.raises(
            RejectedModelError, match=r"numbers it is given \(test_ingesting.py:\d+"
        ):
            db.ingest(Branching(), example_inputs=examples, name="no")
    assert db.names("model") == []


def test_a_module_that_takes_one_sample_at_a_time_says_so_in_its_note(
    db: sm.Connection,
) -> None:
    model = db.ingest(Fixed(), example_inputs=torch.ones(1, 3), name="fixed", note="mine")
    assert str(model.record.note).startswith("mine; converted from a torch module; on ")
    assert "it takes one sample at a time: its batch could not be opened" in str(model.record.note)
    assert model.record.inputs[0].shape == (1, 3)
    np.testing.assert_allclose(_run(db, model, x=torch.ones(1, 3))[0], 2 * np.ones((1, 3)))


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ("picture", "tensors with a batch axis"),
        (torch.tensor(1.0), "tensors with a batch axis"),
        ({"picture": torch.ones(1, 3)}, "forward does not take"),
        (torch.ones(1, 9), "fails on its inputs"),
    ],
)
def test_examples_that_do_not_fit_are_refused(
    db: sm.Connection, examples: object, words: str
) -> None:
    with pytest.raises(RejectedModelError, match=words):
        db.ingest(made.net(), example_inputs=examples, name="no")


def test_an_unknown_fact_and_a_read_only_database_are_refused(
    db: sm.Connection, tmp_path: Path
) -> None:
    with pytest.raises(BinderError) as caught:
        db.ingest(made.net(), example_inputs=made.images(), name="x", licence="MIT")
    assert "license" in caught.value.suggestions
    db.close()
    with (
        sm.connect(tmp_path / "m.sommelier", read_only=True) as reader,
        pytest.raises(ReadOnlyError),
    ):
        reader.ingest(made.net(), example_inputs=made.images(), name="x")


def test_no_steps_of_preprocessing_say_that_items_are_taken_as_they_are(
    db: sm.Connection, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=made.images(8).numpy())
    db.register_dataset("pictures", tmp_path / "x.npz")
    db.ingest(made.net(), example_inputs=made.images(1), name="silent")
    db.ingest(made.net(1), example_inputs=made.images(1), name="stated", preprocessing=[])
    assumed = "preprocessing was assumed from the shapes"
    for name, told in (("silent", True), ("stated", False)):
        notes = db.execute(f"ANALYZE {name} FOR EQUIVALENCE USING dataset = 'pictures'").notes
        assert any(assumed in note for note in notes) is told


def test_torch_prints_nothing_of_a_module_that_is_refused(
    db: sm.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    """It prints the graph as far as it got; the error says what matters."""
    with pytest.raises(RejectedModelError, match=r"test_ingesting\.py"):
        db.ingest(Branching(), example_inputs=torch.zeros(1, 4), name="moody")
    assert capfd.readouterr() == ("", "")
