"""Names by kind, for completion and suggestions."""

from __future__ import annotations

from collections.abc import Callable

from sommelier.engine.cascade_columns import CASCADE_COLUMNS
from sommelier.engine.facts import Facts
from sommelier.engine.fusion_columns import FUSION_COLUMNS
from sommelier.engine.link_columns import LINK_COLUMNS
from sommelier.engine.options import (
    CASCADES_OPTIONS,
    FUSIONS_OPTIONS,
    LINKS_OPTIONS,
    PLAN_OPTIONS,
    SELECT_OPTIONS,
    SETTINGS,
)
from sommelier.engine.vocabulary import ANSWER_TEXTS
from sommelier.metrics import ANSWER_COLUMNS, METRICS, TEXT_COLUMNS
from sommelier.units import SPELLINGS


def names(kind: str, facts: Facts) -> list[str]:
    """Every name of a kind: model, metric, column, unit, device, dataset, task, source, pool,
    view, label, option, setting, link, plan, fusion, link_column, links_option, plan_option,
    fusion_column, fusions_option, cascade, cascade_column, cascades_option, deployment,
    repository.

    Raises KeyError for another kind.
    """
    return _KINDS[kind](facts)


def _devices(facts: Facts) -> list[str]:
    registered = [device.name for device in facts.devices()]
    return list(dict.fromkeys([*registered, *_with_numbers("device", facts)]))


def _datasets(facts: Facts) -> list[str]:
    registered = [dataset.name for dataset in facts.datasets()]
    probed = [probes.name for probes in facts.probe_sets()]
    return list(dict.fromkeys([*registered, *probed, *_with_numbers("dataset", facts)]))


def _with_numbers(kind: str, facts: Facts) -> list[str]:
    """The devices or datasets on which some metric is known."""
    metrics = [metric.name for metric in METRICS.values() if kind in metric.context]
    return [name for metric in metrics for name in facts.context_names(metric, kind)]


_KINDS: dict[str, Callable[[Facts], list[str]]] = {
    "model": lambda facts: facts.model_names(),
    "metric": lambda _: list(METRICS),
    "column": lambda _: [*METRICS, *ANSWER_COLUMNS, *ANSWER_TEXTS, *TEXT_COLUMNS],
    "unit": lambda _: [unit for units in SPELLINGS.values() for unit in units],
    "device": _devices,
    "dataset": _datasets,
    "task": lambda facts: [task for task, *_ in facts.tasks()],
    "source": lambda facts: sorted({str(s) for s in facts.text("source") if s is not None}),
    "pool": lambda facts: [pool.name for pool in facts.catalog.pools()],
    "view": lambda facts: [view.name for view in facts.catalog.views()],
    "label": lambda facts: [space.name for space in facts.catalog.label_spaces()],
    "option": lambda _: list(SELECT_OPTIONS),
    "setting": lambda _: list(SETTINGS),
    "link": lambda facts: facts.catalog.link_names(),
    "plan": lambda facts: facts.catalog.plan_names(),
    "fusion": lambda facts: facts.catalog.fusion_names(),
    "links_option": lambda _: list(LINKS_OPTIONS),
    "plan_option": lambda _: list(PLAN_OPTIONS),
    "link_column": lambda _: list(LINK_COLUMNS),
    "fusions_option": lambda _: list(FUSIONS_OPTIONS),
    "cascade": lambda facts: facts.catalog.cascade_names(),
    "deployment": lambda facts: facts.catalog.deployment_names(),
    "repository": lambda facts: facts.catalog.repository_names(),
    "cascades_option": lambda _: list(CASCADES_OPTIONS),
    "cascade_column": lambda _: list(CASCADE_COLUMNS),
    "fusion_column": lambda _: list(FUSION_COLUMNS),
}
