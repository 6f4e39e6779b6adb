"""Models with costs, and links between them whose predictions and scores are real numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.links.scoring import constant_answer, score, skill
from sommelier.analysis.links.splits import split
from sommelier.link_records import ModelLink
from sommelier.records import Measurement, ModelRecord, ProbeSet, Provenance
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from sommelier.storage.versions import link_id, version_of

COUNT = 300
CLASSES = 4
FORMAT = AnswerFormat("classes", CLASSES, "probabilities")
START = datetime(2024, 5, 1, tzinfo=UTC)
Array = NDArray[Any]


@dataclass
class LinkBench:
    """A catalog to put models and links into. made : links so far, for their times."""

    catalog: Catalog
    sketches: SketchStore
    ask: Callable[..., Any]
    made: int = 0
    truth: dict[str, Array] = field(default_factory=dict)

    def probes(self, name: str = "photos", count: int = COUNT) -> ProbeSet:
        found = ProbeSet(f"probes-{name}", "data", name, count, 0, False, None, None)
        self.catalog.add_probe_set(found)
        return found

    def model(self, name: str, *, seed: int | None = None, **costs: float) -> str:
        """A model with measured costs by metric and answers of its own; latency is on 'cpu'."""
        record = ModelRecord(id=f"sha256:{name}", name=name, version="1", source="test")
        self.catalog.add_model(record)
        self.catalog.add_measurements(list(_measured(record.id, costs)))
        rng = np.random.default_rng(sum(name.encode()) if seed is None else seed)
        shares = np.array([0.4, 0.3, 0.2, 0.1])
        self.truth[name] = np.eye(CLASSES, dtype=np.float32)[rng.choice(CLASSES, COUNT, p=shares)]
        return record.id

    def link(
        self,
        source: str,
        target: str,
        *,
        wrong: float,
        state: str = "linked",
        seed: int = 0,
        probes: str = "photos",
        keep: bool = True,
        name: str | None = None,
        **fields: Any,
    ) -> ModelLink:
        """A link whose prediction misses a share of the target's answers; it is scored as any."""
        given = {"memory": 1e3, "params": 100.0, "flops": 2e2, "size": 4e2, "latency_ms": 0.01}
        truth = self.truth[target]
        predicted = missed(truth, wrong, seed=self.made + 1)
        link = self._row(source, target, seed, f"probes-{probes}", predicted)
        link = replace(
            link, name=name or f"{source}_to_{target}", state=state, **{**given, **fields}
        )
        link = replace(link, id=link_id(link))
        if state == "not linkable":
            link = replace(
                link, performance=None, low=None, high=None, value=None, value_low=None,
                value_high=None, skill=None, metric=None, unit=None, reason="independent",
            )  # fmt: skip
        if keep:
            arrays = {"predicted": predicted, "target": truth}
            self.sketches.add_outputs(link.id, str(link.probe_set_id), arrays)
        self.catalog.add_links([link])
        self.made += 1
        return self.catalog.link(link.name)

    def together(
        self, name: str, sources: tuple[str, ...], target: str, *, wrong: float
    ) -> ModelLink:
        """An ensemble of several sources as one link."""
        link = self.link(sources[0], target, wrong=wrong, name=name)
        records = [self.catalog.resolve(source) for source in sources]
        made = replace(
            link,
            source_ids=tuple(record.id for record in records),
            source_versions=tuple(version_of(record) for record in records),
            source_format=json.dumps([FORMAT.to_json()] * len(sources)),
            method="stacking",
        )
        self.catalog.add_links([replace(made, id=link_id(made))])
        return self.catalog.link(name)

    def _row(self, source: str, target: str, seed: int, probes: str, predicted: Array) -> ModelLink:
        one, other = (self.catalog.resolve(name) for name in (source, target))
        truth, divided = self.truth[target], split(len(predicted), seed)
        held = divided.held_out
        found = score(FORMAT, predicted[held], truth[held])
        constant = constant_answer(FORMAT, truth[divided.train])
        usual = score(FORMAT, np.tile(constant, (len(held), 1)), truth[held]).performance
        return ModelLink(
            id="", name="", state="linked",
            source_ids=(one.id,), target_id=other.id,
            source_versions=(version_of(one),), target_version=version_of(other),
            architecture="vec-to-vec", method="linear", metric=found.metric,
            performance=found.performance, low=found.low, high=found.high, proved=found.proved,
            value=found.value, value_low=found.value_low, value_high=found.value_high,
            unit=found.unit, constant=usual, skill=skill(found.performance, usual), screen=0.5,
            probe_set_id=probes, source_probe_set_id=probes,
            dataset=probes.removeprefix("probes-"),
            samples=len(divided.train), validation=len(divided.validation), held_out=len(held),
            seed=seed, options=json.dumps({"seed": seed, "held_out": 0.3, "made": self.made}),
            source_format=FORMAT.to_json(), target_format=FORMAT.to_json(),
            created_at=START + timedelta(days=self.made),
        )  # fmt: skip


def fill_audio(bench: LinkBench) -> None:
    """Three models of speech, a silent one, links of every state, a pool and a plan."""
    bench.probes()
    for name, size in (("digit_net", 3e6), ("speaker_net", 2e6), ("accent_net", 2.5e6)):
        bench.model(name, memory=size, flops=size * 10, latency=size / 1e6)
    for name in ("noise_net", "gone_net"):
        bench.model(name)
    bench.link("digit_net", "speaker_net", wrong=0.3)
    bench.link("digit_net", "accent_net", wrong=0.5, memory=5e3, latency_ms=None)
    bench.link("speaker_net", "accent_net", wrong=0.02)
    bench.link("accent_net", "speaker_net", wrong=0.4, method="network", memory=2.5e3)
    bench.link("speaker_net", "digit_net", wrong=0.6, state="useless", reason="no skill")
    bench.link("noise_net", "digit_net", wrong=0.7, state="not linkable")
    bench.link("noise_net", "accent_net", wrong=0.7, state="not linkable", memory=None)
    bench.link("gone_net", "accent_net", wrong=0.1)
    bench.together("both", ("digit_net", "speaker_net"), "accent_net", wrong=0.01)
    bench.catalog.drop_model("sha256:gone_net")
    ids = [f"sha256:{name}" for name in ("digit_net", "speaker_net", "accent_net")]
    bench.catalog.save_pool("audio", ids, "SELECT MODELS")


def missed(truth: Array, share: float, *, seed: int) -> Array:
    """Probabilities whose first choice differs from the truth's on about `share` of the rows."""
    rng = np.random.default_rng(seed)
    sure = 0.7 * truth + 0.3 / CLASSES
    moved = np.roll(sure, rng.integers(1, CLASSES), axis=1)
    return np.where((rng.random(len(truth)) < share)[:, None], moved, sure).astype(np.float32)


def _measured(model_id: str, costs: dict[str, float]) -> Iterable[Measurement]:
    for metric, value in costs.items():
        timed = metric in ("latency", "energy", "measured_memory")
        yield Measurement(
            model_id, metric, value, Provenance.MEASURED, "test",
            device="cpu" if timed else None, batch=1 if timed else None,
            percentile=50 if metric == "latency" else None,
        )  # fmt: skip
