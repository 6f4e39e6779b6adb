"""The steps of a search for a fusion as lines: those accepted, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.engine.rendering import grid
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.fusion_records import FusionStep

_SHOWN = 10  # accepted steps; the view fusion_trace has all
_WIDTH = 100
TRAINED_ON = "what became the model came nearest, and kept the limits when it was trained on"


def trace_lines(steps: Sequence[FusionStep], fusion: str, *, fused: bool) -> list[str]:
    """The last accepted steps in order, then how many others there were by what was done.

    fusion : its name. fused : whether the search ended with a model.
    """
    if not steps:
        return []
    accepted = [step for step in steps if step.accepted]
    others = Counter(step.action for step in steps if not step.accepted)
    lines = [""]
    if accepted:
        heads = ["step", "done", "drop", "latency", "flops", "after", "what"]
        lines += grid(heads, [_row(step) for step in accepted[-_SHOWN:]], width=_WIDTH)
        lines.append("drops of steps are on the samples that chose, their latencies are estimates")
    else:
        count = "the one step was not" if len(steps) == 1 else f"none of {len(steps)} steps was"
        lines.append(f"{count} accepted" + (f"; {TRAINED_ON}" if fused else ""))
    if len(accepted) > _SHOWN:
        lines.append(f"{len(accepted) - _SHOWN} steps were accepted before these")
    if others and accepted:
        told = ", ".join(f"{count} {action}" for action, count in others.most_common())
        lines.append(f"not accepted: {told}")
    elif others:
        lines.append(", ".join(f"{count} {action}" for action, count in others.most_common()))
    quoted = fusion.replace("'", "''")
    which = "the step" if len(steps) == 1 else f"all {len(steps)} steps"
    lines.append(f"{which}: SELECT * FROM fusion_trace WHERE fusion = '{quoted}'")
    return lines


def _row(step: FusionStep) -> list[str]:
    drop = (
        "" if step.drop_measured is None else format_value(step.drop_measured, Dimension.FRACTION)
    )
    epochs = f", {step.epochs} epochs" if step.epochs else ""
    return [
        str(step.step),
        f"{step.action}{epochs}",
        drop,
        "" if step.latency_ms is None else format_value(step.latency_ms, Dimension.TIME),
        "" if step.flops is None else format_value(step.flops, Dimension.FLOPS),
        "" if step.elapsed_ms is None else format_value(step.elapsed_ms, Dimension.TIME),
        "; ".join(text for text in (step.pair, step.reason) if text),
    ]
