"""What the footer says of SELECT CASCADES: what was proved of which pairs, and who was skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.engine.cascade_search import FULL, Answered, Found
from sommelier.engine.names import few
from sommelier.engine.plan import ModelReference

if TYPE_CHECKING:
    from sommelier.analysis.cascades.calibration import Target


def notes_of(
    found: Found, answered: Answered, target: Target, count: int, teacher: ModelReference | None
) -> list[str]:
    """What was looked at and what the promise is; count : pairs that satisfied the question."""
    notes = _promise(found, answered, target, teacher)
    if found.pairs and count:
        notes.append(
            f"CREATE CASCADE FROM student TO teacher ... USING candidates = {found.looked}"
            " keeps the promise for a pair that is chosen here"
        )
    missed = found.looked - len(found.pairs)
    if found.pairs and missed:
        notes.append(f"{_pairs(missed)} not shown to keep the promise, and left out")
    return [*notes, *_skipped(found, answered)]


def _promise(
    found: Found, answered: Answered, target: Target, teacher: ModelReference | None
) -> list[str]:
    """What was proved, or why nothing was."""
    from sommelier.analysis.cascades.calibration import WORDS

    name, samples = answered.probes.name, _samples(answered)
    data = f"{samples} samples of '{name}'"
    what = f"{WORDS[target.loss]} of at most {100 * target.at_most:g}% with confidence"
    what += f" {100 * target.confidence:g}%"
    if found.pairs:
        over = f"for {_pairs(found.looked)} and all scores that were looked at, all at once"
        return [
            f"proved on {data}: {what}, {over}; the other figures are estimates on the same samples"
        ]
    if found.looked and samples < found.needed:
        few_samples = f"{data} are too few to promise {what} for {_pairs(found.looked)}"
        return [f"{few_samples}: at least {found.needed} are needed"]
    if found.looked:
        return [f"of {_pairs(found.looked)} none was shown to have {what}, on {data}"]
    if found.unprofiled:
        return []
    if teacher is not None:
        return [f"no model that answered '{name}' with scores costs less than {teacher.name}"]
    return [f"no two models that answered '{name}' can be a cascade"]


def _skipped(found: Found, answered: Answered) -> list[str]:
    notes = []
    if found.unprofiled:
        first = found.lacking[0] if len(found.lacking) == 1 else "ALL"
        notes.append(
            f"{_pairs(found.unprofiled)} skipped: no profile of {few(found.lacking)};"
            f" ANALYZE {first} FOR RESOURCES"
        )
    if answered.unread:
        models = "1 model" if answered.unread == 1 else f"{answered.unread} models"
        notes.append(f"{models} skipped: they answer no class, or others than the labels have")
    if not answered.exact:
        notes.append(
            f"of more than {FULL} models only the margin of the two best scores was looked at;"
            " CREATE CASCADE tries all scores"
        )
    return notes


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"


def _samples(answered: Answered) -> int:
    return len(answered.labels) if answered.labels is not None else answered.probes.samples
