"""Operators that move elements about (algorithms.md B.4 rows 6, 42-45, 48).

A copy of an element counts once more: k copies make sqrt(k).
"""

from __future__ import annotations

import math

import numpy as np

from sommelier.analysis.propagation.extension import FLOATING, Array
from sommelier.analysis.propagation.rules.windows import matrix_norm, pad_matrix
from sommelier.analysis.propagation.site import Bound, Reading, Rule, Site, UnboundedError

WIDER: dict[int, tuple[int, ...]] = {
    2: (4, 5, 6, 7, 12, 13),  # uint8: into 16 bits and more
    3: (5, 6, 7),
    4: (6, 7, 12, 13),
    5: (6, 7),
    6: (7,),
    9: (2, 3, 4, 5, 6, 7, 12, 13),
    12: (7, 13),
    21: (2, 3, 4, 5, 6, 7, 12, 13),  # uint4
    22: (3, 5, 6, 7),
}
"""Element type of integers -> those that hold every value of it."""


def moved(site: Site) -> Bound:
    """Row 43: every element of the input appears at most once, in every output."""
    for operand in range(1, len(site.node.inputs)):
        site.refuse_reached(operand, f"operand {operand}")
    outputs = len(site.node.outputs)
    return lambda at: (at.delta(),) * outputs


def cast(site: Site) -> Bound:
    """Row 43 between floating types, and from integers; row 49 to integers, which rounds.

    Integers that the target does not hold wrap around: 128 as int8 is -128.
    """
    source = site.situation.graph.tensor(site.name()).dtype
    target = int(site.attribute("to", site.situation.graph.tensor(site.node.outputs[0]).dtype))
    if not target:
        raise UnboundedError("the type it casts to is not known")
    if target not in FLOATING and source in FLOATING:
        raise UnboundedError("it rounds to integers")
    if target not in (*FLOATING, source) and target not in WIDER.get(source or 0, ()):
        raise UnboundedError("it casts integers to a type that may not hold them")
    return lambda at: at.delta()


def copied(site: Site) -> Bound:
    """Row 6: Expand, Tile."""
    site.refuse_reached(1, "shape")
    factor = math.sqrt(site.output_elements() / max(1, site.elements()))
    return lambda at: factor * at.delta()


def concat(site: Site) -> Bound:
    """Row 42."""
    count = len(site.node.inputs)
    return lambda at: np.sqrt(np.sum([at.delta(i) ** 2 for i in range(count)], axis=0))


def pad(site: Site) -> Bound:
    """Rows 44 and 45, exactly: one matrix of copies an axis."""
    site.refuse_reached(1, "pads")
    mode = str(site.attribute("mode", "constant"))
    filler = site.constant(2)
    if mode == "constant":
        if filler is None and site.reached(2):
            raise UnboundedError("its filler is computed from the input")
        step = 0.0 if filler is None else float(np.abs(filler.difference).max(initial=0.0))
        added = step * math.sqrt(_filled(site)) if step else 0.0
        return lambda at: at.delta() + added
    shape = site.shape()
    factor = math.prod(
        matrix_norm(pad_matrix(shape[axis], before, after, mode))
        for axis, before, after in _pads(site)
    )
    return lambda at: factor * at.delta()


def _pads(site: Site) -> list[tuple[int, int, int]]:
    """(axis, elements before, elements after) of every axis that is padded, or cut."""
    stated = site.fixed(1, "pads") if site.has(1) else site.attribute("pads")
    pads, rank = [int(p) for p in np.asarray(stated).ravel()], len(site.shape())
    axes = list(range(rank))
    if site.has(3):
        axes = [int(a) % rank for a in site.fixed(3, "axes").ravel()]
    half = len(pads) // 2
    return [(axis, pads[i], pads[half + i]) for i, axis in enumerate(axes)]


def _filled(site: Site) -> int:
    """How many elements of the output are filler; what negative pads cut off makes room for it."""
    kept = list(site.shape())
    for axis, before, after in _pads(site):
        kept[axis] = max(0, kept[axis] + min(0, before) + min(0, after))
    return max(0, site.output_elements() - math.prod(kept))


def top_k(site: Site) -> Bound:
    """Row 48: sorting moves nothing further apart. The indices are not bounded."""
    site.refuse_reached(1, "k")
    if not int(site.attribute("sorted", 1)):
        raise UnboundedError("its order is not stated (sorted = 0)")
    return lambda at: at.delta()


def gather_elements(site: Site) -> Bound:
    """Row 6, with indices that are the same in both models."""
    site.refuse_reached(1, "index")
    axis = int(site.attribute("axis", 0)) % len(site.shape())
    indices, length = site.constant(1), site.shape()[axis]
    most = site.shape(1)[axis]
    if indices is not None and indices.before.size:
        places = np.moveaxis(indices.before % length, axis, -1).reshape(-1, most)
        rows = np.sort(places, axis=1)
        most = max(int(np.bincount(row).max()) for row in rows)
    return lambda at: math.sqrt(most) * at.delta()


def gather_nd(site: Site) -> Bound:
    """Row 6: an element is taken at most as often as there are index tuples."""
    site.refuse_reached(1, "index")
    indices = site.constant(1)
    shape = site.shape(1)
    most = math.prod(shape[:-1])
    if indices is not None and not int(site.attribute("batch_dims", 0)):
        limits = np.asarray(site.shape()[: shape[-1]])
        tuples = indices.before.reshape(-1, shape[-1]) % limits
        most = int(np.unique(tuples, axis=0, return_counts=True)[1].max(initial=0))
    return lambda at: math.sqrt(most) * at.delta()


def scatter(site: Site) -> Bound:
    """Row 42: every element of the output is one of the data or one of the updates."""
    site.refuse_reached(1, "index")
    if str(site.attribute("reduction", "none")) != "none":
        raise UnboundedError("it combines elements")
    return lambda at: np.hypot(at.delta(0), at.delta(2))


def one_hot(site: Site) -> Bound:
    """The same positions are hot in both; the two values may be weights."""
    site.refuse_reached(0, "index")
    site.refuse_reached(1, "depth")
    root = math.sqrt(site.output_elements())
    return lambda at: root * at.delta(2)


def rotary_embedding(site: Site) -> Bound:
    """Row 43: pairs are turned by an angle; tables that are no cosine and sine also stretch."""
    first = 1 if not site.node.domain else 2
    site.refuse_reached(3 if first == 1 else 1, "position")
    tables = []
    for operand in (first, first + 1):
        table = site.weight(operand, "table of angles")
        if table.changed:
            raise UnboundedError("its table of angles differs in the twin")
        tables.append(np.asarray(table.before, np.float64))
    factor = float(np.sqrt(np.square(tables[0]) + np.square(tables[1])).max())
    factor = max(1.0, factor)  # what is not rotated is passed on

    def bound(at: Reading) -> Array:
        return factor * at.delta()

    return bound


def shape_only(_: Site) -> Bound:
    """Shape and Size do not depend on values, and shapes are equal in the twin."""
    return lambda at: at[0.0]


MOVES = (
    "Split", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Reshape", "Transpose", "DepthToSpace",
    "SpaceToDepth", "Trilu", "ReverseSequence", "Compress", "CenterCropPad",
    "com.microsoft:Trilu",
)  # fmt: skip

SHAPE: dict[str, Rule] = {
    **dict.fromkeys(MOVES, moved),
    **dict.fromkeys(("Cast", "CastLike"), cast),
    **dict.fromkeys(("Expand", "Tile"), copied),
    "Concat": concat,
    "Pad": pad,
    "TopK": top_k,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    **dict.fromkeys(("ScatterND", "ScatterElements"), scatter),
    "OneHot": one_hot,
    **dict.fromkeys(("RotaryEmbedding", "com.microsoft:RotaryEmbedding"), rotary_embedding),
    **dict.fromkeys(("Shape", "Size", "ConstantOfShape"), shape_only),
}
