"""What weights show of a model's origin, on pairs whose origin is known because we made them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from sommelier.analysis.differences import weight_lineage
from sommelier.errors import AnalysisError
from tests.onnx_writer import with_weights

from .networks import (
    Net,
    arrays,
    channels_last,
    export,
    pictures,
    quantise,
    renamed,
    saved,
    train,
)


@pytest.fixture(scope="module")
def trained():
    return train(Net(0), seed=0, steps=150, rate=3e-3)


@pytest.fixture(scope="module")
def model(trained):
    return export(trained)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return saved(model, tmp_path_factory.mktemp("net") / "net.onnx")


def copied(net):
    other = Net(0)
    other.load_state_dict(net.state_dict())
    return other.eval()


def test_a_copy_is_identical_whatever_its_notes_say(model, path):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.producer_name = "someone else"
    copy.graph.doc_string = "a note"
    assert weight_lineage(path, copy).relation == "identical"


@pytest.mark.parametrize("other", ["renamed", "opset", "unfolded", "channels last"])
def test_another_graph_of_the_same_weights_is_not_identical_but_its_weights_are(
    model, trained, other
):
    made = {
        "renamed": lambda: renamed(model),
        "opset": lambda: export(trained, opset=11),
        "unfolded": lambda: export(trained, fold=False),
        "channels last": lambda: channels_last(model),
    }[other]()
    found = weight_lineage(model, made)
    assert found.relation == "identical weights", str(found)
    assert found.compared == 1.0
    assert found.derived is None


def moved_weights(model, how):
    """The weights stored in another way, the network unchanged."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    known = arrays(copy)
    if how == "constants":
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
        rest = list(graph.node)
        del graph.initializer[:], graph.node[:]
        graph.node.extend([*nodes, *rest])
        return copy
    order, back = {"HWIO": ((2, 3, 1, 0), (3, 2, 0, 1)), "OHWI": ((0, 2, 3, 1), (0, 3, 1, 2))}[how]
    rest = list(graph.node)
    del graph.node[:]
    for node in rest:
        if node.op_type == "Conv":
            name = node.input[1]
            tensor = next(t for t in graph.initializer if t.name == name)
            tensor.CopyFrom(
                numpy_helper.from_array(np.ascontiguousarray(known[name].transpose(order)), name)
            )
            graph.node.append(
                helper.make_node("Transpose", [name], [f"{name}/turned"], perm=list(back))
            )
            node.input[1] = f"{name}/turned"
        graph.node.append(node)
    return copy


@pytest.mark.parametrize("how", ["constants", "HWIO", "OHWI"])
def test_storage_does_not_matter(model, how):
    assert weight_lineage(model, moved_weights(model, how)).relation == "identical weights"


def test_external_data_does_not_matter(model, path, tmp_path):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, str(tmp_path / "e.onnx"), save_as_external_data=True, size_threshold=0)
    assert weight_lineage(path, tmp_path / "e.onnx").relation in ("identical", "identical weights")


def test_a_matrix_behind_a_picture_flattened_in_another_order_is_the_same(model):
    """Channels last, the hidden matrix reads (place, channel) and its columns are moved."""
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    weight = arrays(model)[gemm.input[1]]  # (24, 12 * 16)
    columns = np.arange(192).reshape(12, 16).T.ravel()
    other = with_weights(model, {gemm.input[1]: np.ascontiguousarray(weight[:, columns])})
    assert weight_lineage(model, other).relation == "identical weights"


def test_the_scale_of_channels_does_not_matter(trained):
    """A convolution's rows times c, its normalisation's statistics likewise: the same network."""
    scaled = copied(trained)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in scaled.blocks:
            factor = torch.rand(12, generator=rng) * 3 + 0.2
            block.first.weight *= factor[:, None, None, None]
            block.first_norm.running_mean *= factor
            block.first_norm.running_var.copy_(
                (block.first_norm.running_var + 1e-5) * factor**2 - 1e-5
            )
    found = weight_lineage(export(trained, fold=False), export(scaled, fold=False))
    assert found.relation == "identical weights", str(found)


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "per tensor", "dynamic"])
def test_quantised_forms_are_recognised_with_their_direction(path, tmp_path, form):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic

    target = tmp_path / "q.onnx"
    if form == "dynamic":
        quantize_dynamic(str(path), str(target))
    else:
        kind = QuantFormat.QOperator if form == "QOperator" else QuantFormat.QDQ
        quantise(path, target, pictures(32), quant_format=kind, per_channel=form == "QDQ",
                 activation_type=QuantType.QUInt8 if form == "QOperator" else QuantType.QInt8,
                 weight_type=QuantType.QInt8)  # fmt: skip
    found = weight_lineage(path, target)
    assert (found.relation, found.derived) == ("quantised", "candidate"), str(found)
    back = weight_lineage(target, path)
    assert (back.relation, back.derived) == ("quantised", "reference"), str(back)


def test_half_precision_is_the_same_weights_at_lower_precision(model):
    halves = {n: a.astype(np.float16) for n, a in arrays(model).items() if a.dtype == np.float32}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for tensor in copy.graph.initializer:
        if tensor.name in halves:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(halves[name], f"{name}/half"))
            copy.graph.node.append(helper.make_node("Cast", [f"{name}/half"], [name], to=1))
    copy.graph.node.extend(nodes)
    found = weight_lineage(model, copy)
    assert (found.relation, found.derived) == ("quantised", "candidate"), str(found)


def test_a_moved_weight_is_no_quantisation(path, tmp_path):
    """A quantised file of a slightly different network is fine-tuned, not quantised."""
    from onnxruntime.quantization import QuantFormat, QuantType

    model = onnx.load(path)
    rng = np.random.default_rng(0)
    moved = {
        n: a + (0.1 * a.std() * rng.normal(size=a.shape)).astype("f4")
        for n, a in arrays(model).items() if a.ndim > 1
    }  # fmt: skip
    edited = saved(with_weights(model, moved), tmp_path / "edited.onnx")
    quantise(edited, tmp_path / "q.onnx", pictures(32), quant_format=QuantFormat.QDQ,
             activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)  # fmt: skip
    assert weight_lineage(path, tmp_path / "q.onnx").relation == "fine-tuned"


@pytest.mark.parametrize("task", ["the same", "another"])
def test_a_fine_tuned_network_is_close_to_where_it_began(trained, model, task):
    tuned = train(copied(trained), seed=7, steps=60, rate=1e-3, turned=task == "another")
    found = weight_lineage(model, export(tuned))
    assert found.relation == "fine-tuned", str(found)
    assert found.ratio < 0.35


def test_frozen_layers_and_a_new_head_are_told(trained, model):
    other = copied(trained)
    with torch.no_grad():
        torch.manual_seed(5)
        other.head.reset_parameters()
    found = weight_lineage(model, export(other))
    assert found.relation == "fine-tuned"
    assert "6 of 7 weights are unchanged" in found.notes
    assert "1 of 7 weights are as if trained anew" in found.notes


def test_a_moved_bias_alone_is_not_the_same_weights(model):
    bias = next(n for n in model.graph.node if n.op_type == "Gemm").input[2]
    edited = with_weights(model, {bias: arrays(model)[bias] + np.float32(0.1)})
    assert weight_lineage(model, edited).relation == "fine-tuned"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_task_trained_anew_is_unrelated(model, seed):
    other = train(Net(seed), seed=0, steps=150, rate=3e-3)
    found = weight_lineage(model, export(other))
    assert found.relation == "unrelated", str(found)
    assert found.ratio > 0.9


def test_one_initialisation_trained_apart_lies_between(model):
    """Closer than strangers, further than fine-tuning for the same task."""
    sibling = weight_lineage(model, export(train(Net(0), seed=9, steps=150, rate=3e-3)))
    tuned = weight_lineage(model, export(train(Net(0), seed=0, steps=150, rate=3e-3)))
    assert 0.3 < sibling.ratio < 0.9
    assert tuned.ratio < sibling.ratio  # the same seed is the same training


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_pruned_weights_are_recognised(model, share):
    pruned = {}
    for name, array in arrays(model).items():
        if array.ndim > 1:
            limit = np.quantile(np.abs(array), share)
            pruned[name] = np.where(np.abs(array) < limit, 0, array).astype("f4")
    found = weight_lineage(model, with_weights(model, pruned))
    assert (found.relation, found.derived) == ("pruned", "candidate")
    assert found.layers[0].zeros[1] == pytest.approx(share, abs=0.05)


def test_other_shapes_say_nothing(model):
    found = weight_lineage(model, export(Net(0, width=16)))
    assert found.relation in ("unknown", "unrelated")
    assert found.compared < 0.5
    narrow = weight_lineage(export(Net(0, blocks=0, width=4)), export(Net(0, blocks=0, width=6)))
    assert narrow.relation == "unknown"


def test_what_is_declared_changes_nothing(model):
    other = export(Net(1))
    helper.set_model_props(other, {"base_model": "net", "author": "me"})
    found = weight_lineage(model, other, declared={"card": "fine-tuned from net"})
    assert found.relation == "unrelated"
    assert found.declared == {"base_model": "net", "card": "fine-tuned from net"}
    assert "declared, not verified: base_model = net" in str(found)


def test_evidence_is_plain_data_and_short_text(model):
    found = weight_lineage(model, renamed(model))
    assert json.loads(json.dumps(found.as_dict()))["relation"] == "identical weights"
    assert len(str(found).splitlines()) <= 40


def test_a_broken_file_is_refused(path, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(AnalysisError, match="cannot be compared"):
        weight_lineage(path, broken)
