"""Does a search that was killed end as one that was not? Processes of their own, and SIGKILL.

`python -m benchmarks.fusion_resume FOLDER` is one of them: it searches a fusion of the models that
FOLDER holds, keeps its state in FOLDER/state, prints a line a step, and writes the fusion it found.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from benchmarks.fusion_suites import SMALL, Suite, made
from sommelier.analysis.fusion.blocks import linearised_together
from sommelier.analysis.fusion.distillation import FineTuning
from sommelier.analysis.fusion.lessons import Lessons, divide
from sommelier.analysis.fusion.search import SearchOptions, search
from sommelier.analysis.links.formats import AnswerFormat

ROOT = Path(__file__).parents[1]  # from where benchmarks are found
STEPS = 6
SAMPLES = 200
RECIPE = replace(SMALL[0], epochs=4, samples=1_000, lessons=200)  # barely trained
OPTIONS = SearchOptions(
    tolerance=0.5, steps=STEPS, seed=11, training=FineTuning(epochs=2), samples=32, runs=20
)  # so much is allowed that there is something to be the same


def same_after_kills(folder: Path, seed: int, *, kills: Sequence[int] = (1, 2)) -> bool:
    """Whether a search that dies so many steps after it began, and again after it went on, writes
    the undisturbed one's model, bit by bit. Raises RuntimeError where a search fails of itself."""
    suite, found = made(RECIPE, seed), []
    for name, after in (("undisturbed", ()), ("killed", kills)):
        place = folder / name
        _keep(suite, place)
        for steps in after:
            _killed(place, steps)
        done = subprocess.run(
            _command(place), cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the search ended with {done.returncode}: {done.stderr[-500:]}")
        found.append((place / "fused.onnx").read_bytes())
    return found[0] == found[1]


def _keep(suite: Suite, folder: Path) -> None:
    folder.mkdir(parents=True)
    lessons = suite.lessons
    for place, (task, model) in enumerate(suite.models.items()):
        onnx.save(model, folder / f"{place} {task}.onnx")
    answers = {f"answers{task}": given[:SAMPLES] for task, given in enumerate(lessons.answers)}
    np.savez(folder / "lessons.npz", inputs=lessons.inputs[0][:SAMPLES], **answers)


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.fusion_resume", str(folder)]


def _killed(folder: Path, steps: int) -> None:
    """The search until it has printed `steps` lines; it dies in the middle of the next step."""
    with subprocess.Popen(_command(folder), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(steps):
            if not process.stdout.readline():
                raise RuntimeError(f"the search was over before step {steps}")
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError("the search was over before it was killed")


def _searched(folder: Path) -> None:
    """The search of one process."""
    paths = sorted(folder.glob("*.onnx"))
    models = {path.stem: onnx.load(path) for path in paths if path.stem != "fused"}
    stored = np.load(folder / "lessons.npz")
    answers = tuple(stored[f"answers{task}"] for task in range(len(models)))
    lessons = Lessons(
        (stored["inputs"],), answers,
        tuple(AnswerFormat("classes", given.shape[1], "logits") for given in answers),
        (None,) * len(models), divide(len(stored["inputs"]), 0),
    )  # fmt: skip
    found = search(
        linearised_together(models), lessons, OPTIONS, folder=folder / "state",
        on_step=lambda step: print(step.step, step.action, flush=True),
    )  # fmt: skip
    if not found.finalists:
        raise SystemExit("no fusion was found")
    best = found.best or found.finalists[0]
    (folder / "fused.onnx").write_bytes(best.model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    _searched(Path(sys.argv[1]))
