"""Why a model was not compared with a reference: the reason of these two, and what would help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.engine.plan import CorrPlan, ModelReference
from sommelier.engine.world import World
from sommelier.grammar.spelling import write_name, write_text
from sommelier.storage.tasks import Setback, TaskQueue

if TYPE_CHECKING:
    from sommelier.records import LabelSpace, ModelRecord
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.sketches import SketchRow

_ANSWERED = "sketch"  # the aspect of a task that runs a model on probes
_UNREACHED = ("pending", "running")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps two models from being compared. remedy : what to do, '' where nothing helps."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two models. answers : where they lie, by probe set."""

    record: ModelRecord
    answers: dict[str, SketchRow]

    @property
    def name(self) -> str:
        return self.record.name


def obstacle(reference: ModelReference, model_id: str, corr: CorrPlan, world: World) -> Obstacle:
    """Why the model was not compared with the reference in a query, and what would change it."""
    catalog = world.facts.catalog
    home, other = _side(reference.id, catalog), _side(model_id, catalog)
    asked = corr.probe_set_id
    answered = [side for side in (home, other) if asked in side.answers or not asked]
    silent = [side for side in (home, other) if not side.answers or side not in answered]
    if silent:
        return _silence(silent, home, asked, world)
    shared = home.answers.keys() & other.answers.keys()
    if not shared:
        return _apart(home, other, world)
    pair = world.semantics.agreement(home.record.id, other.record.id, asked)
    if pair.samples:
        reason = f"mode '{corr.mode}' does not relate its answers to those of {home.name}"
        return Obstacle(reason, "would be compared without USING mode")
    probe_set_id = pair.probe_set_id or min(shared)
    answers = home.answers[probe_set_id], other.answers[probe_set_id]
    if answers[0].kind != answers[1].kind:
        return Obstacle(
            f"it answers with {answers[1].kind}, {home.name} with {answers[0].kind}", ""
        )
    if answers[1].kind != "labels":
        return _sizes(home.name, answers, pair.reason)
    return _classes(home, other, answers, pair.reason, catalog)


def _side(model_id: str, catalog: Catalog) -> _Side:
    rows = catalog.sketch_rows(model_id=model_id)
    return _Side(catalog.model(model_id), {row.probe_set_id: row for row in rows})


# ---- no answers


def _silence(silent: list[_Side], home: _Side, asked: str | None, world: World) -> Obstacle:
    """One of them, or both, never answered the probes asked for, or any."""
    names = _probe_set_names(world)
    where = f" on '{names[asked]}'" if asked else ""
    reasons = []
    for side in silent:
        subject = f"the reference {side.name}" if side is home else "it"
        reasons.append(f"{subject} {_story(side, where, world)}")
    lacking = [side for side in silent if side.record.artifact is None]
    if lacking:
        return Obstacle("; ".join(reasons), f"IMPORT or REGISTER the file of {lacking[0].name}")
    return Obstacle("; ".join(reasons), _analyze(silent, asked or _best(home, world), world))


def _story(side: _Side, where: str, world: World) -> str:
    """What became of a model's answers, to follow its name."""
    queue = TaskQueue(world.facts.catalog)
    setback = queue.setback(side.record.id, aspect=_ANSWERED)
    unreached = queue.setback(side.record.id, aspect=_ANSWERED, states=_UNREACHED)
    if setback is not None and (unreached is None or unreached.job_id <= setback.job_id):
        return f"has no answers{where}: its equivalence task {_told(setback)}"
    if unreached is not None:
        job = f"job {unreached.job_id} is {unreached.job_state}"
        return f"has no answers{where} yet: {job} and has not come to it"
    if side.answers:
        answered = ", ".join(f"'{_probe_set_names(world)[p]}'" for p in side.answers)
        return f"has no answers{where}, only on {answered}"
    if side.record.artifact is None:
        return "is metadata only: there is no file that could answer"
    return "was never analysed for equivalence"


def _told(setback: Setback) -> str:
    when = f"{setback.started_at:%Y-%m-%d %H:%M} UTC"
    state = "was skipped" if setback.state == "skipped" else setback.state
    return f"{state} (job {setback.job_id}, {when}): {setback.reason or 'no reason was kept'}"


def _analyze(sides: list[_Side], probe_set_id: str | None, world: World) -> str:
    """The statement that has the models answer, on the probe set where that is a dataset's."""
    models = ", ".join(write_name(side.name) for side in sides)
    statement = f"ANALYZE {models} FOR EQUIVALENCE"
    for probe_set in world.facts.probe_sets():
        if probe_set.id == probe_set_id and probe_set.dataset_id is not None:
            statement += f" USING dataset = {write_text(probe_set.name)}"
    return statement


def _best(home: _Side, world: World) -> str | None:
    """The largest probe set of a dataset that the reference answered."""
    known = [p for p in world.facts.probe_sets() if p.id in home.answers and not p.synthetic]
    return max(known, key=lambda p: (p.samples, p.id)).id if known else None


def _probe_set_names(world: World) -> dict[str, str]:
    return {probe_set.id: probe_set.name for probe_set in world.facts.probe_sets()}


# ---- answers that do not meet


def _apart(home: _Side, other: _Side, world: World) -> Obstacle:
    """Both answered, but never the same probes."""
    sets = {p.id: f"'{p.name}' ({p.samples})" for p in world.facts.probe_sets()}
    ours, theirs = (", ".join(sorted(sets[p] for p in s.answers)) for s in (home, other))
    reason = f"no common probe set: it answered {theirs}, {home.name} answered {ours}"
    setback = TaskQueue(world.facts.catalog).setback(other.record.id, aspect=_ANSWERED)
    if setback is not None:
        reason += f"; its last equivalence task {_told(setback)}"
    return Obstacle(reason, _analyze([home, other], _best(home, world), world))


def _sizes(name: str, answers: tuple[SketchRow, SketchRow], reason: str | None) -> Obstacle:
    """Vectors of different lengths."""
    ours, theirs = (row.classes or row.width for row in answers)
    if ours == theirs:
        return Obstacle(reason or "their outputs do not compare", "")
    told = f"different output sizes: its answers have {theirs} numbers, those of {name} {ours}"
    return Obstacle(told, "")


def _classes(
    home: _Side,
    other: _Side,
    answers: tuple[SketchRow, SketchRow],
    reason: str | None,
    catalog: Catalog,
) -> Obstacle:
    """Class numbers that no names or counts relate."""
    spaces = [catalog.label_space(r.label_space_id) if r.label_space_id else None for r in answers]
    counts = [
        len(space.labels) if space else row.classes
        for space, row in zip(spaces, answers, strict=True)
    ]
    ours, theirs = (f"{n} classes" if n else "an unknown number of classes" for n in counts)
    analyze = f"then ANALYZE {write_name(other.name)} FOR EQUIVALENCE"
    if spaces[0] is not None and spaces[1] is not None:
        told = (
            f"different classes: none of its {counts[1]} class names is among the {counts[0]} of "
            f"{home.name}"
        )
        mapped = _mapping(home, other, spaces[0], spaces[1], catalog)
        return Obstacle(told, mapped or f"name its classes as {home.name} does: "
                        f"{_set_labels(other)}, {analyze}")  # fmt: skip
    nameless = [side for side, space in zip((home, other), spaces, strict=True) if space is None]
    names = " and ".join(side.name for side in nameless)
    told = f"{reason or 'classes differ'}: it answers with {theirs}, {home.name} with {ours}"
    steps = ", ".join(_set_labels(side) for side in nameless)
    again = ", ".join(write_name(side.name) for side in nameless)
    return Obstacle(
        told, f"name the classes of {names}: {steps}, then ANALYZE {again} FOR EQUIVALENCE"
    )


def _set_labels(side: _Side) -> str:
    return f"ALTER MODEL {write_name(side.name)} SET labels = 'names.txt'"


def _mapping(
    home: _Side, other: _Side, ours: LabelSpace, theirs: LabelSpace, catalog: Catalog
) -> str | None:
    """The statement that maps one model's names to the other's, where a dataset has those."""
    for side, target in ((other, ours), (home, theirs)):
        for dataset in catalog.datasets():
            if dataset.label_space_id == target.id:
                alter = f"ALTER MODEL {write_name(side.name)} SET label_map = 'map.json'"
                return f"relate the names: {alter} ON {write_text(dataset.name)}"
    return None
