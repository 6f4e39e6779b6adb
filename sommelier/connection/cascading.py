"""CREATE CASCADE and db.cascade: models answer samples in a job, thresholds are proved and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from sommelier.connection.cascade_wording import cascade_notes, caveats, refused
from sommelier.connection.naming import underlined, why_no_file
from sommelier.engine.cascade_facts import class_fault, known_flops, risk_of
from sommelier.engine.parameters import as_parameters
from sommelier.errors import AnalysisError, BinderError, CancelledError
from sommelier.grammar import nodes
from sommelier.storage.tasks import TaskQueue
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.analysis.cascade_jobs import CascadeAnswers
    from sommelier.analysis.cascades.calibration import Calibration, Options, Target
    from sommelier.analysis.jobs import AnalysisPlan
    from sommelier.analysis.probes import Probes
    from sommelier.analysis.workers import Rooms
    from sommelier.cascade_records import CascadeMember, KeptCascade
    from sommelier.connection.connection import Connection
    from sommelier.connection.statements import Call
    from sommelier.records import ModelRecord
    from sommelier.runtime.cascade_runner import RunnableCascade

CASCADE_OPTIONS: dict[str, Any] = {
    "dataset": str,
    "score": ("margin", "softmax", "doctor", "entropy", "free_energy"),
    "candidates": int,
    "samples": int,
    "sampling": ("random", "first"),
    "seed": int,
    "threads": int,
    "time_limit": Dimension.TIME,
    "memory_limit": Dimension.BYTES,
}
"""What USING takes after CREATE CASCADE. score : the only one that is tried. candidates : how many
cascades were chosen among on the same samples; the risk is divided among them."""

_LEAST = {"samples": 1, "threads": 1, "candidates": 1, "seed": 0}


def create_cascade(statement: nodes.CreateCascade, call: Call) -> tuple[str, str, tuple[str, ...]]:
    """(status, the cascade's name, notes): created, replaced or exists.

    Raises BinderError for a name that is taken, models that cannot be one cascade, and a promise
    that so few samples cannot prove; AnalysisError when no dataset fits all the models.
    """
    models = [call.resolve(member) for member in statement.members]
    _check_models(statement, models)
    catalog = call.db.catalog
    name = statement.name or catalog.new_cascade_name([model.id for model in models])
    taken = name in catalog.cascade_names()
    if taken and statement.if_not_exists:
        return "exists", name, ()
    replaceable = statement.or_replace or (taken and _is_stale_and_unnamed(statement, name, call))
    if taken and not replaceable:
        raise BinderError(
            f"cascade '{name}' exists",
            span=statement.span,
            hint="CREATE OR REPLACE CASCADE calibrates it again; SHOW CASCADES lists what there is",
        )
    kept = _made(statement, models, name, call)
    catalog.add_cascade(kept)
    return ("replaced" if taken else "created"), name, cascade_notes(kept)


def _is_stale_and_unnamed(statement: nodes.CreateCascade, name: str, call: Call) -> bool:
    """Whether the name was found for the statement, and what has it is of no use any more."""
    return statement.name is None and call.db.catalog.cascade(name).stale is not None


def _check_models(statement: nodes.CreateCascade, models: Sequence[ModelRecord]) -> None:
    """Raises BinderError, underlining the model at fault."""
    last = models[-1]
    spaces = {None, last.label_space_id}
    for place, (reference, model) in enumerate(zip(statement.members, models, strict=True)):
        fault = None
        if model.id in [other.id for other in models[:place]]:
            fault = f"{model.name} is named twice"
        elif model.artifact is None:
            fault = f"{model.name} has no file to run: {why_no_file(model)}"
        elif (fault := class_fault(model)) is None and model.label_space_id not in spaces:
            fault = f"{model.name} and {last.name} answer in different classes"
        if fault is not None:
            raise BinderError(fault, span=reference.span)


# ---- calibration


def _made(
    statement: nodes.CreateCascade, models: Sequence[ModelRecord], name: str, call: Call
) -> KeptCascade:
    from sommelier.cascade_records import KeptCascade

    given = _given(statement, call)
    answers, probes = _answers(statement, models, given, call)
    _check_classes(statement, answers)
    judged = Judged.of(statement, answers)
    target = _target(statement, judged, call)
    options = _options(given)
    with underlined(statement.span):
        found = judged.calibrated(target, options)
    if all(threshold == inf for threshold in found.plan.thresholds):
        raise refused(statement, found, target, options, judged, probes)
    stages = [
        replace(stage, format=format.to_json())
        for stage, format in zip(found.plan.stages, answers.formats, strict=True)
    ]
    return KeptCascade(
        name,
        replace(found.plan, stages=tuple(stages)),
        judged.kept(models, found, options),
        loss=found.loss,
        flops=found.flops,
        flops_share=found.flops_share,
        dataset=probes.record.name,
        probe_set_id=probes.record.id,
        seed=given.get("seed") or 0,
        notes=caveats(answers, judged, options, probes),
        statement=_again(statement, name, models, target),
    )


def _again(
    statement: nodes.CreateCascade, name: str, models: Sequence[ModelRecord], target: Target
) -> str:
    """The statement that makes the cascade anew, without parameters."""
    from sommelier.grammar.formatter import format as format_statement

    members = tuple(
        nodes.ModelRef(model.name, getattr(member, "version", None))
        for model, member in zip(models, statement.members, strict=True)
    )
    within, confidence = nodes.Percent(target.at_most), nodes.Percent(target.confidence)
    same = replace(statement, name=name, members=members, within=within, confidence=confidence)
    return format_statement(replace(same, or_replace=True, if_not_exists=False))


def _check_classes(statement: nodes.CreateCascade, answers: CascadeAnswers) -> None:
    """Raises BinderError for models that choose among different numbers of classes."""
    if len({format.width for format in answers.formats}) > 1:
        told = ", ".join(
            f"{one.name} {format.width}"
            for one, format in zip(answers.members, answers.formats, strict=True)
        )
        raise BinderError(
            f"the models choose among different numbers of classes: {told}", span=statement.span
        )


def _given(statement: nodes.CreateCascade, call: Call) -> dict[str, Any]:
    given = call.options(statement.options, CASCADE_OPTIONS)
    for option in statement.options:
        least, value = _LEAST.get(option.name.lower()), given.get(option.name.lower())
        if least is not None and value is not None and value < least:
            raise BinderError(f"option {option.name} must be at least {least}", span=option.span)
    return given


def _options(given: Mapping[str, Any]) -> Options:
    from sommelier.analysis.cascades.calibration import Options

    score = given.get("score")
    usual = Options()
    return Options((score,) if score else usual.scores, candidates=given.get("candidates") or 1)


def _answers(
    statement: nodes.CreateCascade,
    models: Sequence[ModelRecord],
    given: Mapping[str, Any],
    call: Call,
) -> tuple[CascadeAnswers, Probes]:
    """What the models answered to the samples: stored answers, or those of a job run now."""
    from sommelier.analysis.cascade_jobs import collect
    from sommelier.analysis.sandbox import Sandbox

    db = call.db
    with underlined(statement.span):
        plan, probes = _asked(models, given, db)
    rooms = _rooms(db)
    _run(statement, rooms, plan, call)
    with (
        Sandbox(
            time_limit_s=plan.options.time_limit_s,
            memory_limit_bytes=int(plan.options.memory_limit_bytes),
            threads=plan.options.threads,
            cancelled=call.cancelled,
        ) as sandbox,
        underlined(statement.span),
    ):
        costs = known_flops(models, db.session.facts)
        return collect(rooms, models, costs, probes, sandbox), probes


def let_answer(
    statement: nodes.Deploy, models: Sequence[ModelRecord], dataset: str | None, call: Call
) -> bool:
    """Whether the models could answer samples of one dataset, as for CREATE CASCADE; they did.

    Raises CancelledError, AnalysisError for one that fails.
    """
    try:
        plan, _ = _asked(models, {} if dataset is None else {"dataset": dataset}, call.db)
    except AnalysisError:  # no dataset that fits all of them
        return False
    _run(statement, _rooms(call.db), plan, call)
    return True


def _asked(
    models: Sequence[ModelRecord], given: Mapping[str, Any], db: Connection
) -> tuple[AnalysisPlan, Probes]:
    """(tasks by which the models answer, the samples). Raises AnalysisError where none fit all."""
    from sommelier.analysis.cascade_jobs import plan_answers
    from sommelier.analysis.jobs import AnalysisPlan
    from sommelier.connection.linking import analysis_options

    plan = AnalysisPlan(analysis_options(given))
    flops = known_flops(models, db.session.facts)
    unprofiled = [model for model, cost in zip(models, flops, strict=True) if cost is None]
    return plan, plan_answers(db.catalog, models, unprofiled, plan)


def _rooms(db: Connection) -> Rooms:
    from sommelier.analysis.workers import Rooms

    return Rooms(db.catalog, db.artifacts, db.sketches, TaskQueue(db.catalog))


def _run(
    statement: nodes.CreateCascade | nodes.Deploy, rooms: Rooms, plan: AnalysisPlan, call: Call
) -> None:
    """Lets the models answer. Raises CancelledError, AnalysisError for one that fails."""
    from sommelier.analysis.workers import run_job
    from sommelier.grammar.formatter import format as format_statement

    job = rooms.queue.start_job(format_statement(statement), plan.tasks)
    try:
        run_job(rooms, job, plan, progress=call.progress, cancelled=call.cancelled)
    except CancelledError as error:
        word = "DEPLOY" if isinstance(statement, nodes.Deploy) else "CREATE CASCADE"
        raise CancelledError(
            f"{word} was cancelled",
            hint="answers that were finished are kept; the same statement goes on from there",
        ) from error
    for task in rooms.queue.tasks(job.id):
        if task.state == "failed" and task.aspect == "sketch":
            model = rooms.catalog.model(task.model_id).name
            raise AnalysisError(f"{model} could not answer the samples: {task.reason}")


class Judged:
    """The members with what each loses against the last one.

    loss : 'accuracy drop' by labels, or 'disagreement'. accuracies : None without labels.
    """

    def __init__(self, members: Sequence[Any], losses: Sequence[Any], loss: str) -> None:
        self.members = members
        self.losses = losses
        self.loss = loss
        self.accuracies: Sequence[float | None] = [None] * len(members)

    @classmethod
    def of(cls, statement: nodes.CreateCascade, answers: CascadeAnswers) -> Judged:
        from sommelier.analysis.cascade_data import accuracies
        from sommelier.analysis.cascades.calibration import accuracy_drop, disagreement

        labelled, labels = answers.labelled, answers.labels
        if statement.measure == "accuracy" and labelled is not None and labels is not None:
            found = cls(labelled, accuracy_drop(labelled, labels), "accuracy drop")
        else:
            found = cls(answers.members, disagreement(answers.members), "disagreement")
        if labelled is not None and labels is not None:
            found.accuracies = accuracies(labelled, labels)
        return found

    def __len__(self) -> int:
        return len(self.members[0])

    def calibrated(self, target: Target, options: Options) -> Calibration:
        from sommelier.analysis.cascades.calibration import calibrate

        return calibrate(self.members, self.losses, target, options=options)

    def kept(
        self, models: Sequence[ModelRecord], found: Calibration, options: Options
    ) -> tuple[CascadeMember, ...]:
        """The members as the catalog keeps them."""
        from sommelier.cascade_records import CascadeMember

        return tuple(
            CascadeMember(
                model.id,
                answered=found.answered[place],
                accuracy=self.accuracies[place],
                ranking=self.ranking(place, options),
            )
            for place, model in enumerate(models)
        )

    def ranking(self, place: int, options: Options) -> tuple[tuple[str, float], ...]:
        """Of a member's scores; () of the last one."""
        from sommelier.analysis.cascades.calibration import ranking

        if place == len(self.losses):
            return ()
        return ranking(self.members[place], self.losses[place], options)


def _target(statement: nodes.CreateCascade, judged: Judged, call: Call) -> Target:
    from sommelier.analysis.cascades.calibration import Target

    scope = call.db.session.scope(nodes.Select(), as_parameters(call.parameters))
    at_most, confidence = risk_of(statement, scope)
    return Target(at_most, confidence, judged.loss)  # type: ignore[arg-type]  # a Loss


# ---- in process


def open_cascade(db: Connection, name: str, *, threads: int = 1) -> RunnableCascade:
    """The cascade, ready to run. Raises UnknownNameError, BinderError for a stale one."""
    from sommelier.runtime.cascade_runner import RunnableCascade
    from sommelier.runtime.predictor import open_predictor
    from sommelier.runtime.session_cache import ServedModel, SessionCache
    from sommelier.runtime.sessions import SessionSettings

    kept = db.catalog.cascade(name)
    if kept.stale is not None:
        raise BinderError(f"cascade '{name}' is stale: {kept.stale}", hint=kept.statement)
    cache = SessionCache(db.catalog.directory / "sessions")
    predictors = []
    for one in kept.members:
        record = db.catalog.model(one.model_id)
        path = db.artifacts.path(str(record.artifact))
        served = ServedModel(record.name, path, record.id, record.preprocessing)
        predictors.append(open_predictor(cache, served, SessionSettings(threads=threads)))
    return RunnableCascade(kept.plan, predictors)
