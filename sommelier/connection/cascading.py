"""CREATE CASCADE and db.cascade: models answer samples in a job, thresholds are proved and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sommelier.connection.calibrating import (
    Asked,
    answers_of,
    calibrated,
    planned,
    rooms_of,
    run_answers,
)
from sommelier.connection.cascade_wording import cascade_notes
from sommelier.connection.naming import name_taken, why_no_file
from sommelier.connection.specialising import (
    STUDENT_OPTIONS,
    is_specialised,
    specialised_cascade,
)
from sommelier.engine.cascade_facts import class_fault
from sommelier.errors import AnalysisError, BinderError
from sommelier.grammar import nodes
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.connection.statements import Call
    from sommelier.records import ModelRecord
    from sommelier.runtime.cascade_runner import RunnableCascade

CASCADE_OPTIONS: dict[str, Any] = {
    "dataset": str,
    "score": ("margin", "softmax", "doctor", "entropy", "free_energy"),
    "candidates": int,
    **STUDENT_OPTIONS,
    "samples": int,
    "sampling": ("random", "first"),
    "seed": int,
    "threads": int,
    "time_limit": Dimension.TIME,
    "memory_limit": Dimension.BYTES,
}
"""What USING takes after CREATE CASCADE. score : the only one that is tried. candidates : how many
cascades were chosen among on the same samples; the risk is divided among them. student :
'specialised' trains one of the first model, which is asked instead of it."""

_LEAST = {"samples": 1, "threads": 1, "candidates": 1, "seed": 0, "epochs": 1}


def create_cascade(statement: nodes.CreateCascade, call: Call) -> tuple[str, str, tuple[str, ...]]:
    """(status, the cascade's name, notes): created, replaced or exists.

    Raises BinderError for a name that is taken, models that cannot be one cascade, and a promise
    that so few samples cannot prove; AnalysisError when no dataset fits all the models.
    """
    models = [call.resolve(member) for member in statement.members]
    given = _given(statement, call)
    specialised = is_specialised(statement, given)
    _check_models(statement, models, same_classes=not specialised)
    catalog = call.db.catalog
    name = statement.name or _new_name(models, call, specialised=specialised)
    taken = name in catalog.cascade_names()
    if taken and statement.if_not_exists:
        return "exists", name, ()
    replaceable = statement.or_replace or (taken and _is_stale_and_unnamed(statement, name, call))
    if taken and not replaceable:
        again = "calibrates it again; SHOW CASCADES lists what there is"
        raise name_taken("cascade", name, statement.span, replacing=again)
    asked = Asked(statement, name, tuple(models), given, call)
    if specialised:
        kept = specialised_cascade(asked)
    else:
        answers, probes = answers_of(statement, models, given, call)
        kept = calibrated(asked, models, answers, probes)
        catalog.add_cascade(kept)
    return ("replaced" if taken else "created"), name, cascade_notes(kept)


def _new_name(models: Sequence[ModelRecord], call: Call, *, specialised: bool) -> str:
    """For a cascade that the statement does not name."""
    if specialised:  # the student it is of has no name either
        return f"{models[0].name}_specialised_to_{models[-1].name}"
    return call.db.catalog.new_cascade_name([model.id for model in models])


def _is_stale_and_unnamed(statement: nodes.CreateCascade, name: str, call: Call) -> bool:
    """Whether the name was found for the statement, and what has it is of no use any more."""
    return statement.name is None and call.db.catalog.cascade(name).stale is not None


def _check_models(
    statement: nodes.CreateCascade, models: Sequence[ModelRecord], *, same_classes: bool
) -> None:
    """Raises BinderError, underlining the model at fault."""
    last = models[-1]
    spaces = {None, last.label_space_id}
    for place, (reference, model) in enumerate(zip(statement.members, models, strict=True)):
        fault = None
        if model.id in [other.id for other in models[:place]]:
            fault = f"{model.name} is named twice"
        elif model.artifact is None:
            fault = f"{model.name} has no file to run: {why_no_file(model)}"
        elif (fault := class_fault(model)) is not None:
            pass
        elif same_classes and model.label_space_id not in spaces:
            fault = f"{model.name} and {last.name} answer in different classes"
        if fault is not None:
            raise BinderError(fault, span=reference.span)


def _given(statement: nodes.CreateCascade, call: Call) -> dict[str, Any]:
    given = call.options(statement.options, CASCADE_OPTIONS)
    for option in statement.options:
        least, value = _LEAST.get(option.name.lower()), given.get(option.name.lower())
        if least is not None and value is not None and value < least:
            raise BinderError(f"option {option.name} must be at least {least}", span=option.span)
    return given


def let_answer(
    statement: nodes.Deploy, models: Sequence[ModelRecord], dataset: str | None, call: Call
) -> bool:
    """Whether the models could answer samples of one dataset, as for CREATE CASCADE; they did.

    Raises CancelledError, AnalysisError for one that fails.
    """
    try:
        plan, _ = planned(models, {} if dataset is None else {"dataset": dataset}, call.db)
    except AnalysisError:  # no dataset that fits all of them
        return False
    run_answers(statement, rooms_of(call.db), plan, call)
    return True


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
