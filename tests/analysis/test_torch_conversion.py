"""Modules and programs of torch as ONNX, whatever they take and answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from sommelier.analysis.conversion import ConversionRequest, torch_writing
from sommelier.analysis.conversion.torch_caller import looks_at
from sommelier.analysis.conversion.torch_export import (
    export_module,
    given_examples,
    runs,
    stated_examples,
)
from sommelier.analysis.conversion.torch_inputs import (
    Examples,
    alike,
    batched_examples,
    parse_inputs,
    with_ranges,
)
from sommelier.analysis.conversion.torch_programs import convert_program
from sommelier.analysis.conversion.values import ConvertedModel
from sommelier.analysis.fusion.exporting import exported
from sommelier.analysis.torch_evaluation import evaluation
from sommelier.errors import AnalysisError, RejectedModelError


def export(module: nn.Module, given: object, folder: Path) -> ConvertedModel:
    """given : examples, or inputs as a statement states them."""
    if isinstance(given, str):
        examples = stated_examples(module, parse_inputs(given))
    else:
        examples = given_examples(module, given)
    return export_module(module, examples, folder / "m.onnx")


def answers(made: ConvertedModel, **inputs: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(made.path))
    names = [output.name for output in session.get_outputs()]
    feed = {name: value.numpy() for name, value in inputs.items()}
    return dict(zip(names, session.run(None, feed), strict=True))


class Difference(nn.Module):
    """Which input is which can be seen in the answer."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - 2 * b


class Text(nn.Module):
    """Embeds ids of 50, and kinds of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.Embedding(50, 4)
        self.kinds = nn.Embedding(2, 4)

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        found: Tensor = self.ids(ids) + self.kinds(kinds)
        return found


class Shown(nn.Module):
    """Answers what it is made with a function for."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(x)


@dataclasses.dataclass
class Answer:
    logits: Tensor
    cache: Tensor | None = None


class Named(nn.Module):
    """Its second input has no place, only a name."""

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        return x * scale


class Conditional(nn.Module):
    """Decides in its graph."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x,))
        return found


class Traced(nn.Module):
    """Only a trace takes it: torch.export would need the length as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 300)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_tracing() and torch.compiler.is_exporting():
            raise ValueError("not to be exported")
        found: Tensor = self.linear(x)
        return found


class InPlace(nn.Module):
    """Changes what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(1.0)
        return 2 * x


class Scaled(nn.Module):
    """Its first input is one number."""

    def forward(self, scale: Tensor, x: Tensor) -> Tensor:
        return scale * x


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.calls += 1
        return x * 2


def test_inputs_are_bound_to_the_parameters_they_are_named_after(tmp_path: Path) -> None:
    made = export(Difference(), "b:float32[n,3]; a:float32[n,3]", tmp_path)
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    found = answers(made, a=a, b=b)["output"]
    np.testing.assert_allclose(found, (a - 2 * b).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("a:float32[n,3]; c:float32[n,3]", "forward does not take these inputs"),
        ("a:float32[n,3]; float32[n,3]", "name all inputs, or none"),
    ],
)
def test_names_that_forward_does_not_have_are_refused(stated: str, words: str) -> None:
    with pytest.raises(RejectedModelError, match=words):
        stated_examples(Difference(), parse_inputs(stated))


def test_axes_that_are_named_are_open_and_those_of_one_name_are_as_long(tmp_path: Path) -> None:
    module = Text()
    made = export(module, "ids:int64[n,seq]; kinds:int64[n,seq]", tmp_path)
    ids, kinds = torch.randint(0, 50, (3, 9)), torch.randint(0, 2, (3, 9))
    with torch.no_grad():
        wanted = module(ids, kinds).numpy()
    np.testing.assert_allclose(answers(made, ids=ids, kinds=kinds)["output"], wanted, atol=1e-6)
    assert made.note is None


def test_no_length_is_stated_of_an_output_that_has_others(tmp_path: Path) -> None:
    made = export(nn.LSTM(3, 4, batch_first=True), "float32[n,t,3]", tmp_path)
    output = onnxruntime.InferenceSession(str(made.path)).get_outputs()[0]
    assert [isinstance(length, int) for length in output.shape] == [False, False, True]


def test_an_axis_that_the_module_cannot_open_is_in_the_note(tmp_path: Path) -> None:
    made = export(nn.Linear(16, 2), "float32[n,features]", tmp_path)
    assert "features could not be opened" in str(made.note)


def test_random_integers_reach_as_far_as_each_input_takes_them() -> None:
    zeros = torch.zeros(2, 5, dtype=torch.int64)
    text = Text()
    found = with_ranges(
        batched_examples([zeros, zeros], ["ids", "kinds"]), lambda inputs: runs(text, inputs)
    )
    assert found.ranges == {0: (0, 15), 1: (0, 1)}
    ids, kinds = alike(found, {"batch": 40})
    assert (int(ids.max()), int(kinds.max())) == (15, 1)
    stated = stated_examples(text, parse_inputs("ids:int64[n,4]; kinds:int64[n,4]"))
    assert int(stated.tensors[1].max()) <= 1


def test_only_inputs_as_long_as_the_batch_have_one(tmp_path: Path) -> None:
    x, anchors = torch.randn(4, 3), torch.randn(1, 3)
    made = export(nn.DataParallel(Difference()), (x, anchors), tmp_path)
    more = torch.randn(7, 3)
    found = answers(made, a=more, b=anchors)["output"]
    np.testing.assert_allclose(found, (more - 2 * anchors).numpy(), atol=1e-6)
    assert made.note is None


def test_what_torch_compile_wraps_is_exported_as_what_it_is(tmp_path: Path) -> None:
    compiled = torch.compile(nn.Linear(3, 2))
    assert isinstance(compiled, nn.Module)
    made = export(compiled, torch.ones(1, 3), tmp_path)
    names = {tensor.name for tensor in onnx.load(made.path).graph.initializer}
    assert names == {"weight", "bias"}
    assert answers(made, input=torch.ones(5, 3))["output"].shape == (5, 2)


def test_an_input_that_forward_takes_by_name_only_is_passed_by_name(tmp_path: Path) -> None:
    x, scale = torch.randn(2, 3), torch.randn(2, 3)
    made = export(Named(), {"scale": scale, "x": x}, tmp_path)
    np.testing.assert_allclose(answers(made, x=x, scale=scale)["output"], (x * scale).numpy())


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (lambda x: (x + 1, None), ["output"]),
        (lambda x: Answer(x + 1), ["logits"]),
        (lambda x: {"x": x + 1}, ["x_output"]),
        (lambda x: {"a": (x + 1, [x])}, ["a_0", "a_1_0"]),
    ],
)
def test_the_tensors_in_an_answer_are_the_outputs(
    tmp_path: Path, answer: Callable[[Tensor], object], names: list[str]
) -> None:
    found = answers(export(Shown(answer), torch.ones(1, 3), tmp_path), x=torch.ones(2, 3))
    assert list(found) == names
    np.testing.assert_array_equal(found[names[0]], 2 * np.ones((2, 3)))


def test_an_answer_that_holds_something_else_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RejectedModelError, match="it answers range besides tensors") as caught:
        export(Shown(lambda x: (x, range(3))), torch.ones(1, 3), tmp_path)
    assert "use_cache=False" in str(caught.value.hint)


def test_half_precision_is_compared_as_exactly_as_it_is(tmp_path: Path) -> None:
    made = export(nn.Linear(64, 8).half(), torch.randn(2, 64).half(), tmp_path)
    assert made.difference < 1e-2
    with pytest.raises(RejectedModelError, match="does not run bfloat16") as caught:
        export(nn.Linear(64, 8).bfloat16(), torch.randn(2, 64).bfloat16(), tmp_path)
    assert "module.float()" in str(caught.value.hint)


def test_a_module_is_left_as_it_was_found(tmp_path: Path) -> None:
    frozen = nn.BatchNorm1d(3).eval()
    module = nn.Sequential(Counting(), frozen, nn.Dropout()).train()
    frozen.eval()
    x = torch.randn(2, 3)
    for write in (lambda: export(module, x, tmp_path), lambda: exported(module, [x])):
        write()
        assert [part.training for part in module] == [True, False, True]
        assert module[0].calls.item() == 0
    with pytest.raises(RuntimeError), evaluation(module):
        module(torch.randn(2, 4))
    assert module.training
    assert module[0].calls.item() == 0


def test_a_module_that_works_in_place_is_exported_and_leaves_the_example_alone(
    tmp_path: Path,
) -> None:
    x = torch.ones(2, 3)
    made = export(InPlace(), x, tmp_path)
    assert torch.equal(x, torch.ones(2, 3))
    np.testing.assert_array_equal(answers(made, x=torch.ones(4, 3))["output"], np.zeros((4, 3)))
    assert made.note is None


def test_paths_of_source_files_are_not_in_the_file_nor_in_its_branches(tmp_path: Path) -> None:
    made = export(Conditional(), torch.ones(2, 3), tmp_path)
    assert any(node.op_type == "If" for node in onnx.load(made.path).graph.node)
    assert b".py" not in made.path.read_bytes()
    for x in (torch.ones(2, 3), -torch.ones(2, 3)):
        np.testing.assert_array_equal(answers(made, x=x)["output"], Conditional()(x).numpy())
    assert b".py" not in export(Traced(), torch.ones(2, 3), tmp_path).path.read_bytes()


def test_the_exporter_writes_nothing_to_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = export(Traced(), torch.ones(2, 3), tmp_path)
    assert "traced" in str(made.note)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("module", [nn.Linear(3, 300), Traced()])
def test_weights_that_are_too_large_for_one_message_lie_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: nn.Module
) -> None:
    monkeypatch.setattr(torch_writing, "EXTERNAL_BYTES", 8)
    made = export(module, torch.ones(2, 3), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    assert made.difference < 1e-5  # arithmetic differs by processor; a wrong weight by far more


@pytest.mark.parametrize(
    ("answer", "looks"),
    [
        (lambda x: x * 2 if x.shape[0] > 1 else x, False),
        (lambda x: x * torch.ones(1).item(), False),
        (lambda x: x * 2 if (x + 1).abs().max() > 3 else x, True),
        (lambda x: x * float(x.sum()), True),
        (lambda x: torch.zeros(3).add_(x).tolist(), True),
        (lambda x: [x] if torch.allclose(x, x) else x, True),
    ],
)
def test_whether_python_looks_at_the_numbers_of_an_input_is_found(
    answer: Callable[[Tensor], object], looks: bool
) -> None:
    place = looks_at(answer, [torch.ones(3)])
    assert (place is not None) == looks
    assert place is None or place.startswith("test_torch_conversion.py:")


def test_random_inputs_are_like_the_examples_with_the_lengths_that_are_asked_for() -> None:
    given = (torch.ones(2, 8), torch.ones(2, 3, dtype=torch.bool), torch.ones(1, 8))
    examples = Examples(given, ("a", "b", "c"), ({0: "batch", 1: "t"}, {0: "batch"}, {1: "t"}))
    found = alike(examples, {"batch": 5, "t": 9}, seed=1)
    assert [tuple(one.shape) for one in found] == [(5, 9), (5, 3), (1, 9)]
    assert [one.dtype for one in found] == [one.dtype for one in given]
    assert not torch.equal(found[0], alike(examples, {"batch": 5, "t": 9}, seed=2)[0])


def program(
    folder: Path, module: nn.Module, args: tuple[object, ...], **kept: object
) -> ConvertedModel:
    """What convert_program makes of the module's program. kept : of torch.export.export."""
    torch.export.save(torch.export.export(module, args, **kept), folder / "p.pt2")  # type: ignore[arg-type]  # as given
    return convert_program(ConversionRequest(folder / "p.pt2", folder, {"trust": True}))


@pytest.fixture
def weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a converter sets in its process is forgotten after the test."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")


@pytest.mark.usefixtures("weights_only")
def test_a_program_is_compared_within_the_ranges_it_states_by_the_names_it_has(
    tmp_path: Path,
) -> None:
    batch = torch.export.Dim("batch", min=2, max=4)
    made = program(tmp_path, Difference(), (torch.ones(3, 2), torch.ones(3, 2)),
                   dynamic_shapes=({0: batch}, {0: batch}))  # fmt: skip
    assert onnx.load(made.path).opset_import[0].version == torch_writing.OPSET
    found = answers(made, a=torch.ones(4, 2), b=torch.ones(4, 2))["output"]
    np.testing.assert_array_equal(found, -np.ones((4, 2)))


@pytest.mark.usefixtures("weights_only")
def test_a_program_with_inputs_by_name_and_a_dataclass_is_taken(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    x = torch.ones(2, 3)
    made = program(tmp_path, Named(), (x,), kwargs={"scale": 3 * x},
                   dynamic_shapes={"x": {0: batch}, "scale": {0: batch}})  # fmt: skip
    found = answers(made, x=torch.ones(1, 3), scale=torch.ones(1, 3))["output"]
    np.testing.assert_array_equal(found, np.ones((1, 3)))
    assert made.note is None
    fixed = program(tmp_path, Named(), (x,), kwargs={"scale": x})
    assert fixed.note == "it takes one batch size, which it was exported with"


@pytest.mark.usefixtures("weights_only")
@pytest.mark.parametrize("module", [Scaled(), InPlace()])
def test_a_program_may_take_a_number_and_may_work_in_place(
    tmp_path: Path, module: nn.Module
) -> None:
    batch, x = torch.export.Dim("batch"), torch.ones(2, 3)
    scalar = (torch.tensor(3.0),) if isinstance(module, Scaled) else ()
    made = program(tmp_path, module, (*scalar, x),
                   dynamic_shapes=(*({} for _ in scalar), {0: batch}))  # fmt: skip
    assert made.samples == 2 + 1 + 3  # of the example, and of the batches that are tried besides
    given = {"scale": scalar[0], "x": x} if scalar else {"x": x}
    np.testing.assert_array_equal(answers(made, **given)["output"], (3 if scalar else 0) * x)


def test_the_data_dependent_module_is_refused_by_every_way(tmp_path: Path) -> None:
    branching = Shown(lambda x: x * 2 if x.sum() > 0 else x * 3)
    with pytest.raises((RejectedModelError, AnalysisError), match="by the numbers it is given"):
        export(branching, torch.ones(2, 3), tmp_path)
