"""Which operators of TensorFlow only compute: what an untrusted graph may consist of.

Runs in TensorFlow's environment. The list says what is allowed, so that an operator nobody thought
of is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_STATE = """
    VarHandleOp Variable VariableV2 ReadVariableOp VariableShape VarIsInitializedOp
    IsVariableInitialized ResourceGather ResourceGatherNd DisableCopyOnRead Assign AssignAdd
    AssignSub AssignVariableOp AssignAddVariableOp AssignSubVariableOp AnonymousHashTable
    AnonymousMutableHashTable HashTable MutableHashTableV2 InitializeTable InitializeTableV2
    LookupTableExportV2 LookupTableFind LookupTableImportV2 LookupTableInsertV2 LookupTableSize
    TensorArrayV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3
    TensorArraySizeV3 TensorArraySplitV3 TensorArrayWriteV3 TensorListConcatV2
    TensorListElementShape TensorListGather TensorListPopBack TensorListPushBack
    TensorListScatterIntoExistingList TensorListScatterV2 EmptyTensorList
"""
_CONTROL = """
    Assert Case ControlTrigger Enter Exit LoopCond Merge NextIteration PartitionedCall RefEnter
    RefExit RefIdentity RefMerge RefNextIteration RefSwitch StatefulPartitionedCall StatelessCase
    Switch
"""
_RANDOM = """
    StatelessMultinomial StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal
"""
_FOLDED = """
    AdjustContrast Angle ApproximateEqual BatchToSpace Betainc Bitcast BlockLSTM BlockLSTMV2
    BroadcastArgs BroadcastGradientArgs Bucketize Cholesky Complex Conj Cross CudnnRNNV2 CudnnRNNV3
    CumulativeLogsumexp DataFormatDimMap DataFormatVecPermute DeepCopy Dequantize Diag DiagPart
    Digamma Dilation2D Empty Erfc Erfinv Expm1 ExtractGlimpse ExtractVolumePatches
    FakeQuantWithMinMaxVarsPerChannel FFT2D FFT3D GRUBlockCell HSVToRGB HistogramFixedWidth IFFT
    IFFT2D IRFFT IRFFT2D Igamma Igammac Imag ImageProjectiveTransformV2 ImageProjectiveTransformV3
    InTopK InTopKV2 L2Loss Lgamma LinSpace ListDiff Log1p LowerBound MatrixSetDiag MatrixSetDiagV2
    MatrixSolve MatrixTriangularSolve MirrorPadGrad Mod MulNoNan Ndtri NthElement PreventGradient Qr
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 RGBToHSV Rank
    Real Requantize ScaleAndTranslate ScatterNdNonAliasingAdd ShapeN Snapshot SpaceToBatch
    SparseTensorDenseMatMul Svd TensorStridedSliceUpdate TopK TruncateMod UniqueV2 UpperBound Xdivy
    Xlog1py Xlogy Zeta
"""
BESIDE = frozenset(f"{_STATE} {_CONTROL} {_RANDOM} {_FOLDED}".split())
"""What stands in graphs beside the operators that tf2onnx converts, and is inlined, folded or
frozen before: variables, tables that hold what they need, calls, random numbers, arithmetic."""


def beyond_computing(nodes: Iterable[Any], functions: Mapping[str, Any]) -> set[str]:
    """The operators, in nodes and in all functions they call, that are not known to only compute.

    nodes : NodeDefs; functions : FunctionDefs by name.
    """
    return set(_operators(nodes, functions)) - BESIDE - _convertible()


def _convertible() -> set[str]:
    """The operators tf2onnx has a converter for; none of them reaches beyond the graph."""
    from tf2onnx import handler, tfonnx

    assert tfonnx, "importing it fills the registry"
    versions = handler.tf_op.get_opsets().values()
    return {name for opsets in versions for opset in opsets for name in opset}


def _operators(nodes: Iterable[Any], functions: Mapping[str, Any]) -> Iterator[str]:
    """Every operator's name. A node calls functions by its operator or by its attributes."""
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop()
        for name in (node.op, *_named(node.attr)):
            if name not in functions:
                yield name
            elif name not in seen:
                seen.add(name)
                waiting += functions[name].node_def


def _named(attributes: Mapping[str, Any]) -> Iterator[str]:
    """The functions that attributes name, as those of a loop do."""
    waiting = list(attributes.values())
    while waiting:
        value = waiting.pop()
        for called in (*([value.func] if value.HasField("func") else []), *value.list.func):
            yield called.name
            waiting += called.attr.values()
