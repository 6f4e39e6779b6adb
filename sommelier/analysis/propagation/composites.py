"""Patterns of several operators with a tighter bound than theirs together.

Each is a second, equally certified bound of the last operator's output; the smaller one counts.
"""

from __future__ import annotations

import math

import numpy as np

from sommelier.analysis.graph import Node
from sommelier.analysis.propagation.extension import Array
from sommelier.analysis.propagation.rules.normalisation import normalised
from sommelier.analysis.propagation.site import Bound, Reading, Site, UnboundedError
from sommelier.analysis.propagation.univariate import function_of_one


def composite(site: Site) -> Bound | None:
    """A second bound of the operator's output, where it ends a known pattern."""
    for pattern in (_centring, _division_by_deviation, function_of_one):
        try:
            found = pattern(site)
        except UnboundedError:
            continue
        if found is not None:
            return found
    return None


def _centring(site: Site) -> Bound | None:
    """x - ReduceMean(x): a projection, which never makes a change longer."""
    if site.node.title != "Sub":
        return None
    mean = site.situation.producers.get(site.name(1))
    if mean is None or mean.title != "ReduceMean" or mean.inputs[0] != site.name(0):
        return None
    if not int(mean.attributes.get("keepdims", 1)) or site.output_shape() != site.shape(0):
        return None
    return lambda at: at.delta(0)


def _division_by_deviation(site: Site) -> Bound | None:
    """x / sqrt(mean(x^2) + eps), as a quotient or as a product with a reciprocal (row 9)."""
    source, root = _quotient(site)
    if source is None or root is None or root.title != "Sqrt":
        return None
    producers, constants = site.situation.producers, site.situation.constants
    total = producers.get(root.inputs[0])
    if total is None or total.title != "Add":
        return None
    known = [name for name in total.inputs if name in constants]
    others = [name for name in total.inputs if name not in constants]
    if len(known) != 1 or constants[known[0]].changed or constants[known[0]].before.size != 1:
        return None
    mean = producers.get(others[0])
    if mean is None or mean.title != "ReduceMean":
        return None
    square = producers.get(mean.inputs[0])
    if square is None or not _squares(site, square, source):
        return None
    epsilon = float(constants[known[0]].before.ravel()[0])
    return _row_bound(site, source, Site(mean, site.situation), epsilon)


def _quotient(site: Site) -> tuple[str | None, Node | None]:
    producers = site.situation.producers
    if site.node.title == "Div":
        return site.name(0), producers.get(site.name(1))
    if site.node.title == "Mul":
        for i in (0, 1):
            inverse = producers.get(site.name(i))
            if inverse is not None and inverse.title == "Reciprocal":
                return site.name(1 - i), producers.get(inverse.inputs[0])
    return None, None


def _squares(site: Site, node: Node, source: str) -> bool:
    if node.title == "Mul":
        return node.inputs == (source, source)
    if node.title != "Pow" or node.inputs[0] != source:
        return False
    exponent = site.situation.constants.get(node.inputs[1])
    return exponent is not None and not exponent.changed and bool(np.all(exponent.before == 2))


def _row_bound(site: Site, source: str, mean: Site, epsilon: float) -> Bound | None:
    """Rows are the axes the mean is over, which must be the last ones."""
    shape, kept = mean.shape(), mean.output_shape()
    if len(kept) != len(shape) or epsilon < 0 or site.output_shape() != shape:
        return None
    reduced = [i for i, (a, b) in enumerate(zip(shape, kept, strict=True)) if a != b]
    if not reduced or any(shape[i] > 1 for i in range(reduced[0], len(shape)) if i not in reduced):
        return None
    row = math.prod(shape[i] for i in reduced)
    rows = math.prod(shape) // row
    deviation = site.extension.root_mean_square(source, row, centred=False)

    def bound(at: Reading) -> Array:
        return normalised(at.delta_of(source), at[deviation], epsilon, row, rows)

    return bound
