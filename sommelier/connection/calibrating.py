"""Calibrating a cascade: what its models answer to samples, run in a job where it is not stored,
and the thresholds that are proved of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from sommelier.connection.cascade_wording import caveats, refused
from sommelier.connection.naming import underlined
from sommelier.engine.cascade_facts import known_flops, risk_of
from sommelier.engine.parameters import as_parameters
from sommelier.errors import AnalysisError, BinderError, CancelledError
from sommelier.grammar import nodes
from sommelier.storage.tasks import TaskQueue

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


@dataclass(frozen=True, slots=True)
class Asked:
    """CREATE CASCADE bound: its name, the models it names and the options it gives."""

    statement: nodes.CreateCascade
    name: str
    models: tuple[ModelRecord, ...]
    given: Mapping[str, Any]
    call: Call


def calibrated(
    asked: Asked, models: Sequence[ModelRecord], answers: CascadeAnswers, probes: Probes
) -> KeptCascade:
    """The cascade of models with these answers to the probes, not kept yet.

    models : that are asked in turn; the statement may name others. Raises BinderError for a promise
    that the samples do not prove.
    """
    from sommelier.cascade_records import KeptCascade

    statement, given, name = asked.statement, asked.given, asked.name
    _check_classes(statement, answers)
    judged = Judged.of(statement, answers)
    target = _target(statement, judged, asked.call)
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
        statement=_again(statement, name, asked.models, target),
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


def _options(given: Mapping[str, Any]) -> Options:
    from sommelier.analysis.cascades.calibration import Options

    score = given.get("score")
    usual = Options()
    return Options((score,) if score else usual.scores, candidates=given.get("candidates") or 1)


def answers_of(
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
        plan, probes = planned(models, given, db)
    rooms = rooms_of(db)
    run_answers(statement, rooms, plan, call)
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


def planned(
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


def rooms_of(db: Connection) -> Rooms:
    from sommelier.analysis.workers import Rooms

    return Rooms(db.catalog, db.artifacts, db.sketches, TaskQueue(db.catalog))


def run_answers(
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
