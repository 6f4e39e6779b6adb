"""Real models in a cascade: calibrated on some images, at work on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.zoo_pairs import prepared
from sommelier.analysis.cascades import Target, calibrate, disagreement, member
from sommelier.analysis.cascades.scores import as_logits
from sommelier.analysis.execution import open_session
from sommelier.analysis.links import format_of
from sommelier.records import OutputKind
from sommelier.runtime.cascade import Cascade

NAMES = ("ic_resnet8", "cifar10_resnet56")  # the first answers probabilities, the second logits
IMAGES, HALF = 1_600, 800


@pytest.mark.slow
@pytest.mark.zoo
def test_a_real_cascade_keeps_its_promise_on_new_images_and_saves_the_teacher_work(
    zoo: Path,
) -> None:
    pixels = np.load(zoo / "data" / "cifar10_test.npz")["x"][:IMAGES]
    sessions = {name: open_session(zoo / "onnx" / f"{name}.onnx", 1) for name in NAMES}

    def answer(name: str, rows: np.ndarray) -> np.ndarray:
        session = sessions[name]
        given = session.get_inputs()[0].name
        parts = np.array_split(prepared(name, pixels[rows]), max(1, len(rows) // 64))
        return np.concatenate([session.run(None, {given: part})[0] for part in parts])

    raw = {name: answer(name, np.arange(HALF)) for name in NAMES}
    formats = {name: format_of(OutputKind.CLASSIFICATION, block) for name, block in raw.items()}
    models = [
        member(name, raw[name], formats[name], flops=flops)
        for name, flops in zip(NAMES, (25e6, 251e6), strict=True)
    ]
    assert "free_energy" not in models[0].scores
    assert "free_energy" in models[1].scores
    found = calibrate(models, disagreement(models), Target(0.05))
    assert found.flops_share is not None
    assert found.flops_share < 0.9
    cascade = Cascade(found.plan)
    seen: list[int] = []

    def asked(name: str, rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return as_logits(answer(name, rows), formats[name])

    rows = np.arange(HALF, IMAGES)
    got = cascade.run(rows, [lambda i, name=name: asked(name, i) for name in NAMES])
    teacher = answer(NAMES[-1], rows).argmax(axis=1)
    assert (got.values.argmax(axis=1) != teacher).mean() <= 0.05 + 0.02  # 800 images: sd .008
    assert seen == [HALF, int((got.stage == 1).sum())]
    assert seen[1] < 0.8 * HALF
    assert cascade.drift == ()
