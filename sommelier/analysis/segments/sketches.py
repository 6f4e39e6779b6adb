"""Which pairs of a repository may share segments, without comparing all of them.

A model's sketch is a MinHash of its operators, their n-grams along its sequences, and the shapes of
their weights. Locality-sensitive hashing finds the pairs whose sketches meet; those are compared
in full. algorithms.md B.1 step 4; datasketch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.analysis.segments.linear import OperatorSequence, Step, linearise
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.normalising import normal_form

if TYPE_CHECKING:
    from datasketch import LeanMinHash
    from onnx import ModelProto

PERMUTATIONS = 128
SEED = 3
LONGEST = 3  # items in an n-gram
FALSE_NEGATIVES = 0.9  # what a missed pair weighs against a needless comparison, of 1


def segment_sketch(model: ModelProto | Path | str) -> LeanMinHash:
    """The model's sketch, of 128 permutations; 520 bytes when serialised.

    Sizes of activations enter relative to the input's and quantisation of activations does not
    enter, so that a model meets its versions for other resolutions and in other precisions.
    """
    from datasketch import LeanMinHash, MinHash

    form = normal_form(model, drop_quantisation=True, any_size=True)
    sketch = MinHash(num_perm=PERMUTATIONS, seed=SEED)
    sketch.update_batch(sorted({text.encode() for text in _elements(form)}))
    return LeanMinHash(sketch)


def candidate_pairs(
    sketches: Mapping[str, LeanMinHash], threshold: float = 0.1
) -> list[tuple[str, str]]:
    """Pairs of names whose sketches may be at least `threshold` alike, the most alike first.

    threshold : Jaccard similarity of the sets of operators, 0..1. The hashing may miss a pair near
    the threshold (standard deviation of the estimate: at most 0.045) and adds some below it.
    """
    from datasketch import MinHashLSH

    weights = (1.0 - FALSE_NEGATIVES, FALSE_NEGATIVES)
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=weights)
    found: set[tuple[str, str]] = set()
    for name in sorted(sketches):
        found.update((other, name) for other in index.query(sketches[name]))
        index.insert(name, sketches[name])
    return sorted(found, key=lambda pair: (-_alike(sketches, pair), pair))


def _alike(sketches: Mapping[str, LeanMinHash], pair: tuple[str, str]) -> float:
    return float(sketches[pair[0]].jaccard(sketches[pair[1]]))


def _elements(form: NormalForm) -> Iterator[str]:
    """Operators with weights, the shapes of these, and n-grams of items in which weights occur."""
    weighty = {i for i, operator in enumerate(form.operators) if operator.slots}
    for i in weighty:
        operator = form.operators[i]
        yield f"operator {operator.symbol}"
        for slot in operator.slots:
            yield f"weight {form.constants.dtype_and_shape(slot.tensor)}"
    for sequence in linearise(form).nested():
        yield from _ngrams(sequence, weighty)


def _ngrams(sequence: OperatorSequence, weighty: set[int]) -> Iterator[str]:
    items = sequence.items
    for start in range(len(items)):
        for stop in range(start + 1, min(start + LONGEST, len(items)) + 1):
            part = items[start:stop]
            if len(part) == 1 and isinstance(part[0], Step):
                continue
            if any(o in weighty for item in part for o in item.operators):
                yield "items " + " ".join(item.symbol for item in part)
