"""CREATE CASCADE ... USING student = 'specialised': a student of the first model is asked in its
place, which is trained to answer the classes that come most as the last model does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sommelier.connection.calibrating import (
    Asked,
    calibrated,
    planned,
    rooms_of,
    run_answers,
)
from sommelier.connection.naming import underlined
from sommelier.engine.cascade_facts import known_flops
from sommelier.engine.names import few, nearest
from sommelier.errors import BinderError, CancelledError, SommelierError, UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.formatter import format as format_statement
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.jobs import AnalysisPlan
    from sommelier.analysis.probes import Probes
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.analysis.student_jobs import Student, StudentOptions
    from sommelier.analysis.workers import Rooms
    from sommelier.cascade_records import KeptCascade
    from sommelier.engine.options import Kind
    from sommelier.records import ModelRecord

STUDENT_OPTIONS: dict[str, Kind] = {
    "student": ("specialised",),
    "classes": str,
    "popular": Dimension.FRACTION,
    "training": str,
    "labels": bool,
    "epochs": int,
}
"""What USING of CREATE CASCADE says of a student. classes : of the last model, names or numbers
with commas between. popular : without them, the share of its answers that the fewest classes cover.
training : the dataset to learn from. labels : whether labels are learned where there are any."""

_UNLIMITED_S = 7 * 86_400.0  # where no time limit is given: how long a training takes nobody knows
_SHOWN = 5  # classes that a note names


def is_specialised(statement: nodes.CreateCascade, given: Mapping[str, Any]) -> bool:
    """Whether a student is to be trained. Raises BinderError for options that only one takes, and
    for other than two models."""
    if given.get("student") is None:
        for option in statement.options:
            if option.name.lower() in STUDENT_OPTIONS:
                raise BinderError(
                    f"option {option.name} is of a student that is trained",
                    span=option.span,
                    hint="USING student = 'specialised'",
                )
        return False
    if len(statement.members) != 2:
        raise BinderError(
            f"a specialised student has one teacher, and here are {len(statement.members)} models",
            span=statement.span,
            hint="CREATE CASCADE name FROM small TO big USING student = 'specialised'",
        )
    for option in statement.options:
        share = given.get("popular")
        if option.name.lower() == "popular" and share is not None and not 0 < share <= 1:
            raise BinderError(
                f"option {option.name} is a share above 0% and up to 100%", span=option.span
            )
    return True


def specialised_cascade(asked: Asked) -> KeptCascade:
    """The cascade of a student that is trained now and its teacher; both are in the catalog, or
    nothing is.

    Raises BinderError for names that are taken, classes that the teacher has not, and a promise
    that the samples do not prove; AnalysisError for models that cannot be trained or taught.
    """
    from sommelier.analysis.student_jobs import keep_student

    name = f"{asked.name}_student"
    replaced = _replaced(name, asked)
    student, kept = _made(asked, name)
    found: list[KeptCascade] = []

    def keep(record: ModelRecord) -> None:
        first, *others = kept.members
        members = (replace(first, model_id=record.id), *others)
        stages = (replace(kept.plan.stages[0], model=record.name), *kept.plan.stages[1:])
        found.append(replace(kept, members=members, plan=replace(kept.plan, stages=stages)))
        asked.call.db.catalog.add_cascade(found[0])

    keep_student(rooms_of(asked.call.db), student, replaced, keep)
    return found[0]


def _replaced(name: str, asked: Asked) -> ModelRecord | None:
    """The student of that name that the new one replaces. Raises BinderError for another model, or
    where nothing may be replaced."""
    from sommelier.analysis.student_jobs import SPECIALISED

    try:
        found = asked.call.db.catalog.resolve(name)
    except UnknownNameError:
        return None
    ours = found.source == SPECIALISED and found.name == name
    if ours and asked.statement.or_replace and found.id not in {m.id for m in asked.models}:
        return found
    hint = "give the cascade another name, or rename that model"
    if ours and not asked.statement.or_replace:
        hint = "CREATE OR REPLACE CASCADE trains it anew"
    raise BinderError(
        f"a model is called '{name}', as the student would be", span=asked.statement.span, hint=hint
    )


def _made(asked: Asked, name: str) -> tuple[Student, KeptCascade]:
    """The student and its cascade, neither kept yet."""
    from sommelier.analysis.cascade_jobs import collect
    from sommelier.analysis.student_jobs import plan_student, train

    statement, call = asked.statement, asked.call
    small, teacher = asked.models
    options = _options(asked)
    rooms = rooms_of(call.db)
    with underlined(statement.span):
        plan, probes = _samples(asked, options)
        request = plan_student(rooms, small, teacher, probes, options)
    request = replace(request, threads=plan.options.threads)
    run_answers(statement, rooms, plan, call)
    with _sandbox(asked, plan) as sandbox, underlined(statement.span):
        with _job(asked, rooms):
            student = train(rooms, request, probes, name, sandbox, call.progress)
        flops = [student.flops, *known_flops([teacher], call.db.session.facts)]
        models = [student.record, teacher]
        known = {student.record.id: student.raw}
        answers = collect(rooms, models, flops, probes, sandbox, known)
    try:
        kept = calibrated(asked, models, answers, probes)
    except BinderError as error:
        kept_for = "the same statement with another promise does not train again"
        error.hint = f"{error.hint}; {kept_for}" if error.hint else kept_for
        raise
    return student, replace(kept, notes=(*_notes(student, call.db.catalog), *kept.notes))


def _samples(asked: Asked, options: StudentOptions) -> tuple[AnalysisPlan, Probes]:
    """(tasks by which the teacher answers, the samples of the calibration), which leave as many to
    learn from where the statement does not say how many there are."""
    from sommelier.analysis.student_jobs import room_for_training

    given = dict(asked.given)
    plan, probes = planned(asked.models, given, asked.call.db)
    if given.get("samples") is None and (half := room_for_training(probes, options)) is not None:
        given.update(samples=half, dataset=probes.record.name)
        plan, probes = planned(asked.models, given, asked.call.db)
    small = asked.models[0]
    plan.tasks = [task for task in plan.tasks if task.model_id != small.id]
    return plan, probes


@contextmanager
def _job(asked: Asked, rooms: Rooms) -> Iterator[None]:
    """A row of SHOW JOBS for the training, with how it ended."""
    job = rooms.queue.start_job(format_statement(asked.statement), ())
    try:
        yield
    except BaseException as error:
        state = "failed" if isinstance(error, SommelierError) else "interrupted"
        state = "cancelled" if isinstance(error, CancelledError) else state
        with suppress(SommelierError):  # what went wrong first is what is told
            rooms.queue.finish_job(job.id, state, getattr(error, "message", None))
        if isinstance(error, CancelledError):
            raise CancelledError(
                "CREATE CASCADE was cancelled",
                hint="what the teacher answered is kept, the training begins anew",
            ) from error
        raise
    rooms.queue.finish_job(job.id, "done")


def _sandbox(asked: Asked, plan: AnalysisPlan) -> Sandbox:
    from sommelier.analysis.sandbox import Sandbox

    limited = asked.given.get("time_limit") is not None
    return Sandbox(
        time_limit_s=plan.options.time_limit_s if limited else _UNLIMITED_S,
        memory_limit_bytes=int(plan.options.memory_limit_bytes),
        threads=plan.options.threads,
        cancelled=asked.call.cancelled,
    )


# ---- what is asked of the student


def _options(asked: Asked) -> StudentOptions:
    from sommelier.analysis.student_jobs import StudentOptions

    usual, given = StudentOptions(), asked.given
    labels, popular = given.get("labels"), given.get("popular")
    return StudentOptions(
        classes=_classes(asked),
        popular=usual.popular if popular is None else popular,
        training=given.get("training"),
        labels=usual.labels if labels is None else labels,
        epochs=given.get("epochs"),
        seed=given.get("seed") or 0,
    )


def _classes(asked: Asked) -> tuple[int, ...]:
    """The teacher's numbers of the classes that are named; () where none are."""
    text = asked.given.get("classes")
    if text is None:
        return ()
    teacher = asked.models[-1]
    span = next(o.span for o in asked.statement.options if o.name.lower() == "classes")
    space = teacher.label_space_id
    labels = () if space is None else asked.call.db.catalog.label_space(space).labels
    found = []
    for name in _names(text, labels):
        if name not in labels and not name.isdecimal():
            raise BinderError(
                f"{teacher.name} has no class '{name}'",
                span=span,
                suggestions=nearest(name, labels),
                hint=f"it has {few(labels)}" if labels else "its classes have numbers, from 0",
            )
        found.append(labels.index(name) if name in labels else int(name))
    twice = next((one for one in found if found.count(one) > 1), None)
    if twice is not None:
        raise BinderError(f"class {_name_of(twice, labels)} is named twice", span=span)
    if labels and max(found, default=0) >= len(labels):
        raise BinderError(
            f"{teacher.name} has {len(labels)} classes, numbered from 0, and no {max(found)}",
            span=span,
        )
    if not found or (labels and len(found) == len(labels)):
        raise BinderError(
            f"a student learns some of the classes of {teacher.name}, and here are"
            f" {'all' if found else 'none'}",
            span=span,
            hint="the others are left to the teacher; without `classes` those that come most are"
            " taken",
        )
    return tuple(found)


def _names(text: str, labels: Sequence[str]) -> list[str]:
    """Names with commas between; the whole where a class is called so."""
    names = [text] if text in labels else text.split(",")
    return [name.strip() for name in names if name.strip()]


def _name_of(one: int, labels: Sequence[str]) -> str:
    return labels[one] if one < len(labels) else str(one)


def _notes(student: Student, catalog: Any) -> tuple[str, ...]:
    """How the student came about, and what it knows."""
    trained, request = student.trained, student.request
    space = student.record.label_space_id
    labels = () if space is None else catalog.label_space(space).labels
    names = [_name_of(one, labels) for one in trained.classes[:_SHOWN]]
    more = len(trained.classes) - len(names)
    shown = ", ".join(names) + (f" and {more} more" if more else "")
    by = f"by what {request.teacher.name} answers"
    by += f" and {trained.labelled} labels" if trained.labelled else ", without labels"
    made = (
        f"{student.record.name} was made of {request.small.name} and trained on {trained.samples}"
        f" samples of '{request.probes.record.name}' that calibration did not see, {by}"
    )
    knows = (
        f"it knows {'class' if len(trained.classes) == 1 else 'classes'} {shown}:"
        f" {format_value(trained.covered, Dimension.FRACTION)} of what {request.teacher.name}"
        f" answers there; {_of_others(student)}"
    )
    return (made, knows) if trained.remark is None else (made, knows, trained.remark)


def _of_others(student: Student) -> str:
    """What becomes of inputs that are of no class it knows."""
    left = student.record.outputs[0].shape[-1] if student.record.outputs[0].shape else None
    if left == len(student.trained.classes) + 1:
        return "what is none of these it takes for the one class that is left"
    return "what it takes for another class is the first to be sent on"
