from __future__ import annotations

from itertools import combinations

from datasketch import LeanMinHash

from sommelier.analysis.segments import candidate_pairs, segment_sketch
from tests.analysis.segments.nets import random_dag, residual_net


def test_models_of_one_design_meet_and_others_do_not() -> None:
    models = {
        "deep": residual_net([3, 3], 0),
        "shallow": residual_net([1, 2], 1, names="other"),
        "wide": residual_net([1, 1], 2, widths=(16, 32)),
        "vectors": random_dag(4, 0),
    }
    sketches = {name: segment_sketch(model) for name, model in models.items()}
    assert candidate_pairs(sketches, 0.5) == [("deep", "shallow")]


def test_weights_and_names_do_not_enter_a_sketch() -> None:
    first, second = residual_net([2, 2], 0), residual_net([2, 2], 5, names="other")
    assert segment_sketch(first) == segment_sketch(second)


def test_a_sketch_survives_storage_in_as_many_bytes_as_it_says() -> None:
    sketch = segment_sketch(residual_net([1, 1], 0))
    buffer = bytearray(sketch.bytesize())
    sketch.serialize(buffer)
    assert len(buffer) <= 1040
    assert LeanMinHash.deserialize(buffer) == sketch


def test_every_pair_that_is_alike_enough_is_found() -> None:
    """Hashing has a hard case here: many pairs near the threshold. None above it may be lost."""
    sketches = {f"m{seed}": segment_sketch(random_dag(seed // 2, seed)) for seed in range(24)}
    found = set(candidate_pairs(sketches, 0.3))
    alike = {
        (a, b)
        for a, b in combinations(sorted(sketches), 2)
        if sketches[a].jaccard(sketches[b]) >= 0.45
    }
    assert alike
    assert alike <= found
