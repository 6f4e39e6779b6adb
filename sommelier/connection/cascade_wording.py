"""What CREATE CASCADE says: what was proved, with which caveats, or why nothing could be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.cascade_jobs import CascadeAnswers
    from sommelier.analysis.cascades.calibration import Calibration, Options, Target
    from sommelier.analysis.probes import Probes
    from sommelier.cascade_records import KeptCascade
    from sommelier.connection.calibrating import Judged


def refused(
    statement: nodes.CreateCascade,
    found: Calibration,
    target: Target,
    options: Options,
    judged: Judged,
    probes: Probes,
) -> BinderError:
    """The error for a promise that the samples do not prove, with what would."""
    from sommelier.analysis.cascades.calibration import available_scores
    from sommelier.analysis.cascades.chains import FACTORS
    from sommelier.analysis.cascades.thresholds import needed

    chains = 1 if len(judged.members) == 2 else len(FACTORS)
    tests = len(available_scores(judged.members, options)) * chains * options.candidates
    confidence = 1 - (1 - target.confidence) / tests
    enough = needed(target.at_most, confidence, loss=target.loss)
    span = statement.within.span if statement.within is not None else statement.span
    reason = found.plan.reason.partition(", so every")[0].partition(": all inputs")[0]
    if len(judged) >= enough:
        lost = [float(values.mean()) for values in judged.losses]
        alone = ", ".join(
            f"{one.name} {format_value(loss, Dimension.FRACTION)}"
            for one, loss in zip(judged.members, lost, strict=False)
        )
        hint = f"the {target.loss} of each alone, on these samples: {alone}; a larger WITHIN, or"
        return BinderError(reason, span=span, hint=f"{hint} more samples, may do")
    items = 0 if probes.dataset is None else probes.dataset.samples
    if items >= enough:
        hint = f"'{probes.record.name}' has {items} items: USING samples = {enough} or more"
    else:
        least = _provable(max(items, len(judged)), confidence, target.loss)
        hint = f"'{probes.record.name}' has {items} items; they could prove WITHIN {least} at best"
    return BinderError(reason, span=span, hint=hint)


def _provable(samples: int, confidence: float, loss: str) -> str:
    """The least loss that so many samples could prove, rounded up to half a percent."""
    from sommelier.analysis.cascades.thresholds import needed

    for halves in range(1, 200):
        if needed(halves / 200, confidence, loss=loss) <= samples:
            return f"{halves / 2:g}%"
    return "100%"


def caveats(
    answers: CascadeAnswers, judged: Judged, options: Options, probes: Probes
) -> tuple[str, ...]:
    """What should be known of the promise."""
    notes = []
    if answers.remark is not None:
        notes.append(f"{answers.remark}; the promise is of disagreement, which no accuracy exceeds")
    elif judged.loss == "disagreement" and judged.accuracies[0] is None:
        notes.append(
            f"'{probes.record.name}' has no labels: the promise is of disagreement with "
            f"{judged.members[-1].name}, and the accuracy falls by no more"
        )
    if probes.dataset is None or probes.dataset.held_out is not True:
        notes.append(
            f"whether the models were trained on '{probes.record.name}' is not known; on what it "
            "was trained on, a model is surer than elsewhere"
        )
    if options.candidates > 1:
        notes.append(f"the risk is divided among {options.candidates} cascades chosen among")
    unknown = [one.name for one in judged.members if one.flops is None]
    if unknown:
        notes.append(f"the FLOPs of {', '.join(unknown)} are unknown")
    return tuple(notes)


def cascade_notes(kept: KeptCascade) -> tuple[str, ...]:
    """What was proved, who answers what, and what it saves."""
    parts = []
    for stage, one in zip(kept.plan.stages, kept.members, strict=True):
        share = format_value(one.answered, Dimension.FRACTION)
        when = "" if stage.score is None else f" ({stage.score} >= {stage.threshold:.4g})"
        parts.append(f"{stage.model} answers {share}{when}")
    costs = ""
    if kept.flops_share is not None:
        share = format_value(kept.flops_share, Dimension.FRACTION)
        costs = f": {share} of the FLOPs of {kept.names[-1]}"
    return (kept.plan.reason, f"{', '.join(parts)}{costs} (estimates)", *kept.notes)
