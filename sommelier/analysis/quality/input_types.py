"""Whether one input could be fed to two models: element types, axes, layouts, preparation."""

from __future__ import annotations

from collections.abc import Sequence

from sommelier.errors import AnalysisError
from sommelier.records import Dim, Preprocessing, TensorSpec

Side = tuple[TensorSpec, Preprocessing | None]
Step = tuple[str, str]
Shape = tuple[Dim, ...]

_RESIZING = ("resize", "resize_short", "center_crop")
_OPAQUE = ("reshape", "file_bytes")  # what was there before cannot be told from what comes out
_TO_LAST = (0, 2, 3, 1)  # NCHW -> NHWC


def check_input(reference: Side, candidate: Side, notes: list[str]) -> list[Step]:
    """The (step, detail) of every adapter one pair of inputs needs; doubts are added to `notes`.

    Where both models declare how raw items become inputs, the raw items have to agree; otherwise
    the inputs themselves. Raises AnalysisError where nothing helps. Source: algorithms.md A.1.
    """
    (one, prepared), (other, also_prepared) = reference, candidate
    if _prepares(prepared) and _prepares(also_prepared):
        return _raw_items(reference, candidate)
    if _prepares(prepared) or _prepares(also_prepared):
        notes.append("only one of the models declares its preprocessing")
    return [*_types(one, other), *_axes(one, other)]


def _prepares(preprocessing: Preprocessing | None) -> bool:
    return preprocessing is not None and (
        preprocessing.assumed or any(name != "fill" for name, _ in preprocessing.steps)
    )


def _raw_items(reference: Side, candidate: Side) -> list[Step]:
    (one, prepared), (other, also_prepared) = reference, candidate
    assert prepared is not None  # the caller looked
    assert also_prepared is not None
    ours, theirs = (
        any(name == "file_bytes" for name, _ in p.steps) for p in (prepared, also_prepared)
    )
    if ours != theirs:
        raise AnalysisError("one model reads files, the other arrays")
    shapes = raw_shape(one, prepared), raw_shape(other, also_prepared)
    if shapes[0] is not None and shapes[1] is not None:
        _unified(shapes[0], shapes[1], f"raw items of {one.name} and {other.name}")
    if prepared.steps == also_prepared.steps and _types(one, other) == []:
        return []
    return [("preprocessing", "each model prepares the raw item in its own way")]


def raw_shape(spec: TensorSpec, preprocessing: Preprocessing) -> Shape | None:
    """The shape of the raw items that the steps turn into this input; None where it is open.

    A resized side may have had any length.
    """
    if spec.shape is None:
        return None
    shape: Shape = tuple(spec.shape[1:])
    for name, arguments in reversed(preprocessing.steps):
        if name in _OPAQUE:
            return None
        if len(shape) != 3:
            continue
        if name == "layout":
            first = str(arguments.get("order", "")).upper() == "NCHW"
            shape = (shape[1], shape[2], shape[0]) if first else (shape[2], shape[0], shape[1])
        elif name in _RESIZING:
            shape = (None, None, shape[2])
        elif name == "grayscale":
            shape = (shape[0], shape[1], 3)
    return shape


def _types(one: TensorSpec, other: TensorSpec) -> list[Step]:
    if one.dtype == other.dtype:
        return []
    if one.dtype.startswith("float") and other.dtype.startswith("float"):
        return [("cast", f"{one.dtype} to {other.dtype}")]
    if (
        one.dtype.startswith("int")
        and other.dtype.startswith("int")
        and "8" not in (one.dtype[3:], other.dtype[3:])
    ):
        return [("cast", f"{one.dtype} to {other.dtype}")]
    raise AnalysisError(
        f"inputs {one} and {other} are of different types",
        hint="declare the preprocessing of both models",
    )


def _axes(one: TensorSpec, other: TensorSpec) -> list[Step]:
    if one.shape is None or other.shape is None:
        return []
    ours, theirs = tuple(one.shape[1:]), tuple(other.shape[1:])
    try:
        _unified(ours, theirs, f"inputs {one} and {other}")
    except AnalysisError:
        if len(ours) == 3 and len(theirs) == 3:
            for name, order in (("NCHW to NHWC", _TO_LAST), ("NHWC to NCHW", (0, 3, 1, 2))):
                moved = tuple(ours[axis - 1] for axis in order[1:])
                if _fits(moved, theirs):
                    return [("transpose", name)]
        raise
    return []


def _fits(ours: Shape, theirs: Shape) -> bool:
    try:
        _unified(ours, theirs, "")
    except AnalysisError:
        return False
    return True


def _unified(ours: Sequence[Dim], theirs: Sequence[Dim], what: str) -> None:
    """Fixed lengths are equal; a named axis has one length wherever its name stands."""
    if len(ours) != len(theirs):
        raise AnalysisError(f"{what} have {len(ours)} and {len(theirs)} axes beside the batch")
    lengths: dict[tuple[int, str], int] = {}
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, int) and isinstance(other, int) and mine != other:
            raise AnalysisError(f"{what} differ in an axis ({mine} and {other})")
        for side, (name, length) in enumerate(((mine, other), (other, mine))):
            if not (isinstance(name, str) and name and isinstance(length, int)):
                continue
            if lengths.setdefault((side, name), length) != length:
                raise AnalysisError(f"{what} need axis '{name}' to have two lengths")
