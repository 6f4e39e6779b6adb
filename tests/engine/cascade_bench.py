"""Classifiers that answered the same samples, cascades of them, and deployments of every kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sommelier.analysis.cascades import Target, accuracy_drop, calibrate, member, ranking
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.cascade_records import CascadeMember, KeptCascade
from sommelier.deployment_records import Deployment, ServedFigures
from sommelier.engine import show_deployments
from sommelier.engine.deployment import plan_deployment
from sommelier.engine.options import EXPLAIN_OPTIONS, Kind, bind_options
from sommelier.engine.session import Session
from sommelier.grammar import nodes
from sommelier.grammar.parser import parse
from sommelier.records import (
    LabelSpace,
    Measurement,
    ModelRecord,
    OutputKind,
    OutputSketch,
    Preprocessing,
    ProbeSet,
    Provenance,
    TensorSpec,
)
from sommelier.storage.versions import version_of
from tests.analysis.cascades.populations import CLASSES, ladder

COUNT = 2000
NAMES = ("tiny", "small", "big")
FLOPS = dict(zip((*NAMES, "mid"), (2e6, 2e7, 2e8, 4e7), strict=True))
MEDIANS_MS = dict(zip((*NAMES, "mid"), (0.5, 2.0, 20.0, 5.0), strict=True))
LABELS = LabelSpace("labels-ten", "ten", tuple(f"class {i}" for i in range(CLASSES)))
LOGITS = AnswerFormat("classes", CLASSES, "logits")
START = datetime(2024, 5, 1, tzinfo=UTC)
KNOBS: dict[str, Kind] = {"headroom": float}  # of ROUTE BY balanced, which the runtime knows
DEPLOYED = (
    """DEPLOY MODELS big, small, tiny AS vision UNDER SLA latency < 50 ms AT p99 AND accuracy >= 60%
    ROUTE BY balanced FALLBACK TO tiny USING headroom = 0.4, queue = 64, keep_alive = 2 min""",
    "DEPLOY CASCADE quick AS tiered",
    "DEPLOY CASCADE tiny -> small -> big ESCALATE AT MOST 10% AS router UNDER latency < 30 ms",
)


@dataclass
class CascadeBench:
    """Answers every statement of cascades and deployments; DEPLOY plans, and keeps nothing."""

    session: Session

    def ask(self, text: str) -> Any:
        statement = parse(text)
        if isinstance(statement, nodes.Deploy):
            return show_deployments.explain(self.planned(statement, text))
        if isinstance(statement, nodes.ExplainDeploy):
            with self.session.located(text):
                options = bind_options(statement.options, EXPLAIN_OPTIONS)
            found = self.planned(statement.deploy, text)
            return show_deployments.explain(found, as_json=options.get("format") == "json")
        return self.session.answer(statement, None, text=text)

    def planned(self, statement: nodes.Deploy, text: str) -> Deployment:
        with self.session.located(text):
            return plan_deployment(statement, self.session, KNOBS)


def fill_cascades(bench: CascadeBench) -> None:
    """Three steps of a ladder, one that was changed since, and one that has answered nothing."""
    catalog = bench.session.catalog
    people, truth = ladder(np.random.default_rng(8), COUNT, stages=3)
    labels = truth.astype(np.int32).tobytes()
    probes = ProbeSet("probes-photos", "data", "photos", COUNT, 0, False, labels, LABELS.id)
    with catalog.transaction():
        for name in (*NAMES, "mid", "unasked"):
            catalog.add_model(_record(name), label_space=LABELS)
        catalog.add_model(replace(_record("counter"), output_kind=OutputKind.REGRESSION))
        catalog.add_model(replace(_record("chooser"), output_kind=OutputKind.CLASS_IDS))
        catalog.add_probe_set(probes)
    logits = {
        name: np.asarray(one.logits, np.float32)
        for name, one in zip((*NAMES, "mid"), (*people, people[1]), strict=True)
    }
    for name, values in logits.items():
        _measure(bench.session, name, float((values.argmax(axis=1) == truth).mean()))
        _answer(bench.session, name, probes, values)
    _keep(bench.session, "quick", ("tiny", "big"), logits, truth, probes)
    _keep(bench.session, "staircase", NAMES, logits, truth, probes)
    _keep(bench.session, "old", ("mid", "big"), logits, truth, probes)
    other = Preprocessing((("scale", {"by": 2.0}),))
    catalog.update_model(replace(catalog.resolve("mid"), preprocessing=other))
    for text in DEPLOYED:
        statement = parse(text)
        assert isinstance(statement, nodes.Deploy)
        catalog.save_deployment(replace(bench.planned(statement, text), created_at=START))
    figures = ServedFigures(
        "vision", _record("big").id, "cpu", 1, 1200, 21.0, 2.0, 20.5, 28.0, 3.0, START
    )
    catalog.add_served([figures])


def _record(name: str) -> ModelRecord:
    return ModelRecord(
        id=f"sha256:{name}", name=name, version="1", source="test", task="ten", format="onnx",
        inputs=(TensorSpec("x", "float32", ("N", 8)),),
        outputs=(TensorSpec("logits", "float32", ("N", CLASSES)),),
        output_kind=OutputKind.CLASSIFICATION, label_space_id=LABELS.id,
        artifact=str(Path(f"{name}.onnx")), created=START,
    )  # fmt: skip


def _measure(session: Session, name: str, accuracy: float) -> None:
    id_, measured = _record(name).id, Provenance.MEASURED
    session.catalog.add_measurements(
        [
            Measurement(id_, "flops", FLOPS[name], Provenance.ESTIMATED, "graph"),
            Measurement(id_, "memory", FLOPS[name] / 10, Provenance.ESTIMATED, "liveness"),
            Measurement(id_, "accuracy", accuracy, measured, "paired", dataset="photos"),
            *(
                Measurement(
                    id_, "latency", factor * MEDIANS_MS[name], measured, "onnxruntime",
                    device="cpu", batch=1, percentile=percentile, threads=1,
                )
                for percentile, factor in ((50, 1.0), (99, 1.2))
            ),
        ]
    )  # fmt: skip


def _answer(session: Session, name: str, probes: ProbeSet, logits: np.ndarray) -> None:
    ids = logits.argmax(axis=1).astype(np.uint32)
    id_ = _record(name).id
    session.sketches.add(
        OutputSketch(id_, probes.id, "labels", ids.tobytes(), 1, True, LABELS.id, CLASSES)
    )
    version = version_of(session.catalog.resolve(name))
    session.sketches.add_outputs(version, probes.id, {"outputs": logits})


def _keep(
    session: Session,
    name: str,
    models: tuple[str, ...],
    logits: dict[str, np.ndarray],
    truth: np.ndarray,
    probes: ProbeSet,
) -> None:
    """As CREATE CASCADE does."""
    members = [member(one, logits[one], LOGITS, flops=FLOPS[one]) for one in models]
    losses = accuracy_drop(members, truth)
    found = calibrate(members, losses, Target(0.05, 0.95, "accuracy drop"))
    stages = [replace(stage, format=LOGITS.to_json()) for stage in found.plan.stages]
    kept = tuple(
        CascadeMember(
            _record(one).id,
            answered=found.answered[place],
            accuracy=float((members[place].ids == truth).mean()),
            ranking=ranking(members[place], losses[place]) if place < len(losses) else (),
        )
        for place, one in enumerate(models)
    )
    session.catalog.add_cascade(
        KeptCascade(
            name, replace(found.plan, stages=tuple(stages)), kept, found.loss, found.flops,
            found.flops_share, "photos", probes.id, 0, (),
            f"CREATE OR REPLACE CASCADE {name} FROM {' TO '.join(models)} WITHIN 5% OF ACCURACY"
            " CONFIDENCE 95%",
            START,
        )
    )  # fmt: skip
