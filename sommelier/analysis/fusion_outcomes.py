"""What is told of a fused model: its file, its costs beside the originals', what each task lost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.fusion.lessons import CERTIFY
from sommelier.analysis.fusion_data import FusionData
from sommelier.analysis.fusion_requests import MODEL, replace_file
from sommelier.fusion_records import FusionCost, FusionTask
from sommelier.records import ModelRecord
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.fusion.certifying import Certificate, Drop
    from sommelier.analysis.fusion.lessons import Lessons
    from sommelier.analysis.fusion.search.options import SearchOptions, SearchResult
    from sommelier.analysis.fusion.search.ranking import Limits
    from sommelier.analysis.fusion_lessons import Taught
    from sommelier.analysis.inspection import Inspection

FAR_BELOW = 0.5  # of what is predicted: a cost so small no search is begun for
FUSION = "sommelier.fusion"  # key of the file's metadata that says which output is which task


def kept_model(
    data: FusionData, model: ModelProto, name: str, folder: Path
) -> tuple[Path, Inspection, FusionCost]:
    """The model in a file of the folder, what the file holds, and what it costs.

    The file says its name and which outputs are of which model, so that equal searches under two
    names become two models. Raises RejectedModelError for a file that no import would accept.
    """
    from sommelier.analysis.inspection import inspect

    model.graph.name = name
    said = model.metadata_props.add()
    said.key, said.value = (
        FUSION,
        json.dumps(outputs_of(data, [o.name for o in model.graph.output])),
    )
    path = folder / MODEL
    replace_file(path, model.SerializeToString(deterministic=True))
    inspection = inspect(path, fused_facts(data.records))
    return path, inspection, _summed([{m.metric: m.value for m in inspection.measurements}])


def outputs_of(data: FusionData, names: Sequence[str]) -> dict[str, list[str]]:
    """The outputs of each task, by task. names : '<task>/<output>'."""
    return {task: [name for name in names if name.startswith(f"{task}/")] for task in data.tasks}


def fused_facts(records: Sequence[ModelRecord]) -> dict[str, object]:
    """What is declared of a fused model: what all its originals are, under the licences of all."""
    from sommelier.analysis.segment_study import joint_license

    facts: dict[str, object] = {"license": joint_license(records)}
    for name in ("task", "family"):
        values = {getattr(record, name) for record in records}
        facts[name] = values.pop() if len(values) == 1 else None
    return {name: value for name, value in facts.items() if value is not None}


def costs_of(data: FusionData) -> tuple[dict[str, FusionCost], FusionCost]:
    """What each original costs, by task, and what they cost one after the other; latency is not
    known here."""
    from sommelier.analysis.aspects import static_profile

    measured = (static_profile(path, "", 1, ())[0] for path in data.paths)
    profiles = [{m.metric: m.value for m in profile} for profile in measured]
    alone = (_summed([profile]) for profile in profiles)
    return dict(zip(data.tasks, alone, strict=True)), _summed(profiles)


def _summed(profiles: Sequence[dict[str, float]]) -> FusionCost:
    """Memory is that of all weights, and of the activations of the one that needs most."""
    memory = None
    if all("activation_memory" in profile for profile in profiles):
        peak = max(profile["activation_memory"] for profile in profiles)
        memory = peak + sum(profile["size"] for profile in profiles)
    flops = [profile.get("flops") for profile in profiles]
    total = None if None in flops else sum(f for f in flops if f is not None)
    return FusionCost(total, sum(profile["params"] for profile in profiles), memory)


def split_sizes(lessons: Lessons) -> tuple[int, int, int]:
    """Samples trained on, chosen on, measured on."""
    splits = lessons.splits
    return len(splits.fine_tune), len(splits.select), len(splits.certify)


def tasks_of(
    data: FusionData, taught: Taught | None, certificate: Certificate | None
) -> tuple[FusionTask, ...]:
    """What each model's task lost: of several outputs, that which lost most."""
    found = []
    for place, record in enumerate(data.records):
        task = FusionTask(record.id, record.name, version_of(record))
        if certificate is not None and taught is not None:
            owned = zip(taught.owners, certificate.drops, strict=True)
            task = with_drops(task, [drop for owner, drop in owned if owner == place])
        found.append(task)
    return tuple(found)


def with_drops(task: FusionTask, drops: Sequence[Drop]) -> FusionTask:
    """The task with the drop of the output that lost most, and an interval of the largest drop.

    Which output lost most was seen on the samples the intervals are of, so its own says too little:
    the largest drop is below the highest upper end, and not below the lowest lower one.
    """
    worst, intervals = max(drops, key=lambda drop: drop.drop), [drop.interval for drop in drops]
    return replace(
        task, metric=worst.measure, baseline=worst.reference, drop=worst.drop,
        drop_low=min(interval.low for interval in intervals),
        drop_high=max(interval.high for interval in intervals),
        samples=worst.interval.samples, proved=all(interval.proved for interval in intervals),
    )  # fmt: skip


def out_of_reach(reached: Limits, asked: Limits, tasks: int) -> tuple[str, str] | None:
    """(why a search would be in vain, what to ask instead); None where it may find something.

    reached : the least shares that are predicted, which may err; what is asked has to lie far
    below them. Of a latency the part that every run costs anew may fall to one of `tasks` runs.
    """
    for metric in ("latency", "flops", "memory"):
        most, share = getattr(asked, metric), getattr(reached, metric)
        if most is None or share is None:
            continue
        surely = min(share, 1 / tasks) if metric == "latency" else share
        if most < FAR_BELOW * surely:
            of = f"of the {'FLOPs' if metric == 'flops' else metric} of the originals"
            told = (
                f"the cheapest fusion is predicted to have {share:.0%} {of}, and {most:.1%} was"
                " asked, so nothing was trained"
            )
            return told, f"allow ON {metric} < {math.ceil(share * 100)}%, which is predicted"
    return None


def closest_of(result: SearchResult, options: SearchOptions) -> tuple[str, str]:
    """(what came closest to the threshold and the limits, what to ask instead)."""
    tried = [step for step in result.trace if step.drop_measured is not None]
    refused = [f for f in result.finalists if f.refusal is not None]
    if refused:
        least = min(refused, key=lambda f: (f.verdict is None, f.drop))
        told = f"the best of {len(tried)} trained, of step {least.step}: {least.refusal}"
        limit, latency = options.limits.latency, least.latency
        if limit is not None and latency is not None and latency.share > limit:
            return told, f"allow ON latency < {latency.share * 1.05:.0%}, or a larger budget"
        if least.needed is not None:
            return told, more_samples(least.needed)
        if least.verdict is Verdict.UNDECIDABLE:
            return told, "allow a larger drop with WITHIN, or leave out upper_end"
        return told, "allow a larger drop with WITHIN, give more samples, or a larger budget"
    if not tried:
        return "no candidate was trained", _untried(result)
    best: Any = min(tried, key=lambda step: step.drop_measured or 0.0)
    lost = f"{best.drop_measured:.2%}"
    if result.elites:  # it lost little enough, and no finalist came of it
        told = f"{best.pair or f'the candidate of step {best.step}'} loses {lost}, beyond a limit"
        return told, "allow more with ON, or give a larger budget"
    told = (
        f"of {len(tried)} candidates that were trained, the best lost {lost} on the samples that"
        f" choose, which is too much to lose no more than {options.tolerance:.2%} on others"
    )
    return told, "allow a larger drop with WITHIN, or give a larger budget"


def more_samples(measured: int) -> str:
    """What gives so many samples to measure on."""
    whole = math.ceil(measured / CERTIFY)
    return (
        f"give a dataset of {whole} samples or more (USING samples = {whole}), of which so many are"
        " measured on; or allow a larger drop with WITHIN, or leave out upper_end"
    )


def _untried(result: SearchResult) -> str:
    if result.stopped == "exhausted":
        return "these models have no blocks of which one could read another's input"
    return "give a larger budget"
