"""A plan of ANALYZE as text: what workers elsewhere need besides its tasks.

JSON, not a pickle: who may write a catalog shall not thereby run programs on its workers.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sommelier.analysis.jobs import AnalysisOptions, AnalysisPlan
from sommelier.analysis.probes import Probes, same_probes
from sommelier.records import AnalysisTask, Dataset, ProbeSet

_COMPUTED = frozenset({"latency", "bounds"})  # aspects whose tasks name their device
_BY_PLAN = frozenset({"segments", "links"})  # and those whose plan does


def frozen(plan: AnalysisPlan) -> str:
    """The options and probe sets of a plan as JSON; its tasks are kept as rows."""
    kept = {
        "options": asdict(plan.options),
        "probes": [_probes_to_json(probes) for probes in plan.probes.values()],
    }
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def thawed(text: str) -> AnalysisPlan:
    """The plan that `frozen` made a text of, without tasks."""
    from sommelier.analysis.links.judging import LinkOptions

    kept = json.loads(text)
    options = kept["options"]
    links = options.pop("links")
    plan = AnalysisPlan(
        AnalysisOptions(
            **(options | {"datasets": tuple(options["datasets"])}),
            links=None if links is None else LinkOptions(**links),
        )
    )
    for found in kept["probes"]:
        probes = _probes_from_json(found)
        plan.probes[probes.record.id] = probes
    return plan


def devices_of(plan: AnalysisPlan, tasks: Iterable[AnalysisTask]) -> dict[str, str]:
    """By key the device that a task needs, where it needs one that not every machine has."""
    needed = {}
    for task in tasks:
        if task.aspect in _COMPUTED:
            device = str(task.parameters.get("device", "cpu"))
        else:
            device = plan.options.device if task.aspect in _BY_PLAN else "cpu"
        if device != "cpu":
            needed[task.key] = device_name(device)
    return needed


def device_name(device: str) -> str:
    """
    >>> device_name("cuda"), device_name("CPU"), device_name("cuda:1")
    ('cuda:0', 'cpu', 'cuda:1')
    """
    kind, _, number = device.lower().partition(":")
    return kind if kind == "cpu" else f"{kind}:{number or 0}"


def _probes_to_json(probes: Probes) -> dict[str, Any]:
    dataset = None if probes.dataset is None else asdict(probes.dataset)
    if dataset is not None:
        dataset |= {"path": str(dataset["path"]), "options": dict(dataset["options"])}
    record = {
        name: b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in asdict(probes.record).items()
    }
    return {"record": record, "dataset": dataset, "classes": probes.classes}


def _probes_from_json(kept: dict[str, Any]) -> Probes:
    record, dataset = kept["record"], kept["dataset"]
    for name in ("labels", "indices"):
        if record[name] is not None:
            record[name] = b64decode(record[name])
    if dataset is not None:
        shape = dataset["item_shape"]
        dataset |= {
            "path": Path(dataset["path"]), "item_shape": None if shape is None else tuple(shape),
        }  # fmt: skip
    found = same_probes(ProbeSet(**record), None if dataset is None else Dataset(**dataset))
    return replace(found, classes=kept["classes"])
