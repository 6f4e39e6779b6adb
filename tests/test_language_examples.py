"""Every statement that docs/language.md shows is run, in its order, section by section.

Each section begins with the same database: small networks under the names of the page, that differ
by noise in their last layer, and data they answered. What such networks cannot do, a statement must
refuse for the reason told here; what lies on other machines is run by the tests of the connectors.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sommelier as sm
from sommelier.errors import SommelierError
from sommelier.grammar.parser import split_statements
from tests.factories import mlp_classifier
from tests.test_docs import FENCE, LANGUAGE

NAMES = [
    "cifar10_net",
    "resnet20",
    "resnet50",
    "resnet50_tuned",
    "resnet50_int8",
    "resnet56",
    "resnet101",
    "mobilenet_v2",
    "vgg16",
    "digit_net",
    "speaker_net",
    "accent_net",
    "tiny",
    "small",
    "big",
    "a",
    "b",
    "candidate",
]
WIDE, WIDER = ("resnet50", "resnet50_tuned", "resnet56", "resnet101"), 500
DATASETS = ["imagenet", "cifar10", "imagenet-a", "sketches", "art", "fsdd", "pets", "traffic"]
LABELS = ["cat", "dog", "fish"]
PARAMETERS = {"ref": "resnet50", "tolerance": 0.8, "memory": "200 MB"}
ELSEWHERE = re.compile(
    r"IMPORT MODELS FROM (wheel|table|huggingface|vision)|EXPLAIN IMPORT"
    r"|SHOW MODELS FROM vision|SELECT MODELS FROM vision"
)
REFUSED = {  # what networks of three layers cannot do, and what is said of it
    "CREATE MODEL hybrid AS GRAFT": "segment",
    "SHOW LINEAGE OF hybrid": "there is no model 'hybrid'",
    "CANCEL JOB 7": "7",
    "REGISTER DATASET cifar10 ": "there is a dataset 'cifar10'",
    "DEPLOY POOL edge AS classifier": "no model is known to reach 90%",
}
BEFORE = {  # what a section takes for granted
    "Deploying": [
        "CREATE CASCADE quick FROM resnet20 TO resnet56 WITHIN 5% USING dataset = 'cifar10'",
        "ANALYZE digit_net, speaker_net FOR LINKS USING dataset = 'fsdd'",
        "CREATE PLAN edge AS SELECT PLAN FOR digit_net, speaker_net ON memory < 5 MB",
    ],
}


def _sections() -> dict[str, list[str]]:
    """The statements under each heading of the page."""
    parts = re.split(r"^## (.+)$", LANGUAGE.read_text(), flags=re.MULTILINE)
    sections = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        blocks = [block for language, block in FENCE.findall(body) if language == "sql"]
        found = [s.strip() for block in blocks for s in split_statements(block) if s.strip()]
        if found:
            sections[title] = found
    return sections


def _network(path: Path, number: int) -> None:
    """One network for all, with noise in the last layer that grows with the number.

    Some have units more that never matter, so that others cost less.
    """
    mlp_classifier(path, seed=0, hidden=(16, 16), classes=len(LABELS))
    model = onnx.load(path)
    rng = np.random.default_rng(number)
    more = WIDER if path.stem in WIDE else 0
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if tensor.name == "w2":
            weight = weight + rng.normal(size=weight.shape).astype(np.float32) * 0.004 * number
        rows = more if tensor.name in ("w1", "w2") else 0
        columns = more if tensor.name in ("w0", "b0", "w1", "b1") else 0
        pads = [(0, rows), (0, columns)] if weight.ndim == 2 else [(0, columns)]
        tensor.CopyFrom(numpy_helper.from_array(np.pad(weight, pads), tensor.name))
    onnx.save(model, path)


def _files(folder: Path) -> None:
    """The files that the page's statements name."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4)).astype(np.float32)
    y = rng.integers(0, len(LABELS), size=2000)
    for place, name in enumerate((*DATASETS, "cifar10_test")):  # equal data would be one data set
        np.savez(folder / f"{name}.npz", x=x + np.float32(place / 1000), y=y)
    ids = np.array([f"u{i}" for i in range(2000)])
    np.savez(folder / "spoken.npz", wave=x, utterance=ids)
    np.savez(folder / "frames.npz", x=x, id=ids)
    np.savez(folder / "audio.npz", x=x[::-1], id=ids[::-1])
    (folder / "imagenet_labels.txt").write_text("\n".join(LABELS))
    (folder / "resnet50_steps.json").write_text("[]")
    (folder / "imagenet_to_pets.json").write_text(json.dumps({"cat": "cat", "dog": "dog"}))
    card = {"match": "*", "task": "image-classification", "labels": LABELS, "preprocessing": []}
    (folder / "zoo.json").write_text(json.dumps({"models": [card]}))
    (folder / "zoo").mkdir()
    for number, name in enumerate(NAMES):
        _network(folder / "zoo" / f"{name}.onnx", number)
    _network(folder / "mine.onnx", 40)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a section may begin with."""
    folder = tmp_path_factory.mktemp("language")
    _files(folder)
    with sm.connect(folder / "m.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/zoo' USING card = '{folder}/zoo.json'")
        for name in DATASETS:
            db.register_dataset(name, folder / f"{name}.npz", labels=LABELS, held_out=True)
        for name in ("frames", "audio"):
            db.register_dataset(name, folder / f"{name}.npz", id="id")
        db.execute("ANALYZE ALL FOR RESOURCES, LATENCY")
        wanted = "['imagenet', 'cifar10', 'sketches', 'art']"
        db.execute(f"ANALYZE ALL FOR EQUIVALENCE, ACCURACY USING dataset = {wanted}, samples = 600")
        db.execute("CREATE POOL edge AS SELECT MODELS WHERE name LIKE 'res%'")
        db.execute("CREATE POOL audio AS SELECT MODELS WHERE name LIKE '%_net'")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(prepared, tmp_path / "section")
    monkeypatch.chdir(tmp_path / "section")
    return tmp_path / "section"


def test_the_page_has_sections_with_statements() -> None:
    assert len(_sections()) > 8
    assert set(BEFORE) <= set(_sections())
    shown = [statement for section in _sections().values() for statement in section]
    assert len([s for s in shown if not ELSEWHERE.match(s)]) > 95
    assert [start for start in REFUSED if not any(s.startswith(start) for s in shown)] == []


@pytest.mark.slow
@pytest.mark.parametrize("title", _sections())
def test_every_statement_of_a_section_runs_or_is_refused_for_a_reason(
    title: str, folder: Path
) -> None:
    wrong = []
    with sm.connect(folder / "m.sommelier") as db:
        for statement in BEFORE.get(title, ()):
            db.execute(statement)
        for statement in _sections()[title]:
            problem = None if ELSEWHERE.match(statement) else _problem(db, statement)
            wrong += [f"{statement[:90]} => {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


def _problem(db: sm.Connection, statement: str) -> str | None:
    """What is wrong with how a statement went; None if it went as it should."""
    given = {name: value for name, value in PARAMETERS.items() if f"${name}" in statement}
    expected = next((why for start, why in REFUSED.items() if statement.startswith(start)), None)
    try:
        outcome = db.execute(statement, given or None)
        assert str(outcome)
    except SommelierError as error:
        return None if expected and expected in str(error) else f"{type(error).__name__}: {error}"
    return "it runs now: take it out of REFUSED" if expected else None
