"""What the views of catalog SQL are for, in the words that tools show: comments, and primary keys.

The views themselves are in views.py. A note of a column says its unit; what a name says by itself
(`name`, `source`) has none.
"""

from __future__ import annotations

VIEW_NOTES: dict[str, str] = {
    "models": "one row a model: what it is, and its numbers that need no device",
    "profiles": "every number known of a model, with how, where and on what it was found",
    "equivalences": "pairs of models that were compared on the same inputs",
    "segments": "exchanges of parts between two models, and what they change",
    "lineage": "what a model was made from, as far as is known",
    "links": "models that predict the answers of another",
    "plans": "which models are run, and which are predicted from those",
    "plan_models": "the models of each plan, in order",
    "fusions": "models that were fused into one, and searches for such",
    "fusion_tasks": "the models that each fusion joins, and what each of them lost",
    "fusion_trace": "the steps of each search for a fusion",
    "cascades": "small models that answer what they are sure of and pass on the rest",
    "cascade_stages": "the models of each cascade, in order",
    "deployments": "what is served, and what it was promised to keep",
    "deployed_models": "the models of each deployment, in order",
    "served": "what models took while they answered requests",
    "datasets": "data that was registered",
    "probe_sets": "inputs on which models were compared",
    "sketches": "answers of models to probe sets that are kept",
    "tasks": "tasks, how many models each has, and its reference",
    "jobs": "what runs, or ran, in the background",
    "job_tasks": "the pieces of work of each job",
    "workers": "processes that do the work of jobs",
    "pools": "kept answers to a question",
    "pool_models": "the models of each pool, in order",
    "views": "kept questions",
    "repositories": "places of models that have a name",
    "rejections": "what an import refused, and why",
    "devices": "devices that FITS ON knows",
    "labels": "the names of the classes of each label space",
    "operator_costs": "how long operators took on a device",
    "settings": "settings that differ from their default",
}
"""By view, one sentence each."""

VIEW_KEYS: dict[str, tuple[str, ...]] = {
    "models": ("id",),
    "equivalences": ("reference_id", "candidate_id", "probe_set_id", "method"),
    "segments": ("host_id", "donor_id", "name"),
    "lineage": ("model_id", "parent_id", "relation", "provenance"),
    "links": ("id",),
    "plans": ("name",),
    "plan_models": ("plan", "position"),
    "fusions": ("id",),
    "fusion_tasks": ("fusion_id", "position"),
    "fusion_trace": ("fusion_id", "step"),
    "cascades": ("name",),
    "cascade_stages": ("cascade", "position"),
    "deployments": ("name",),
    "deployed_models": ("deployment", "position"),
    "served": ("deployment", "model_id", "device", "batch"),
    "datasets": ("name",),
    "probe_sets": ("id",),
    "sketches": ("model_id", "probe_set_id"),
    "tasks": ("task",),
    "jobs": ("id",),
    "job_tasks": ("job_id", "key"),
    "workers": ("id",),
    "pools": ("name",),
    "pool_models": ("pool", "position"),
    "views": ("name",),
    "repositories": ("name",),
    "rejections": ("source", "revision"),
    "devices": ("name",),
    "labels": ("id", "position"),
    "operator_costs": ("device", "operator"),
    "settings": ("name",),
}
"""Columns that tell the rows of a view apart. `profiles` has none: contexts may be unknown."""

_OF_VIEW: dict[tuple[str, str], str] = {
    ("profiles", "value"): "in the metric's base unit: bytes, FLOPs, ms, a fraction, a count",
    ("profiles", "provenance"): "measured, estimated or declared",
    ("profiles", "count"): "how often it was measured",
    ("profiles", "percentile"): "of a latency: 50, 90 or 99",
    ("equivalences", "agreement"): "fraction of the inputs that both answer alike",
    ("equivalences", "lower"): "fraction, a bound of the agreement at `confidence`",
    ("equivalences", "upper"): "fraction, a bound of the agreement at `confidence`",
    ("equivalences", "difference"): "accuracy of reference less that of candidate, fractions",
    ("segments", "accuracy_drop"): "fraction, of the host with the donor's part in it",
    ("links", "value"): "in the unit that `unit` says",
    ("fusions", "speedup"): "times as fast as its models one after the other",
    ("cascade_stages", "answered"): "fraction of the inputs that this model answers",
    ("devices", "memory_bytes"): "bytes",
    ("devices", "peak_flops_per_s"): "FLOPs a second",
    ("devices", "bandwidth_bytes_per_s"): "bytes a second",
    ("operator_costs", "milliseconds"): "ms of one run",
    ("jobs", "progress"): "fraction of its tasks that ended",
}
_NOTES: dict[str, str] = {
    "params": "number of weights",
    "size": "bytes of the weights",
    "flops": "FLOPs of one input, 2 x MACs",
    "activation_memory": "bytes, the peak of live intermediate tensors",
    "memory": "bytes, weights plus peak activation memory",
    "layers": "number of operators in the graph",
    "accuracy": "fraction of correct answers",
    "confidence": "fraction, the probability with which the bounds hold",
    "tags": "words; list_contains(tags, 'mobile') finds one",
    "batch": "inputs of one run",
    "samples": "how many inputs",
    "position": "from 0 on",
}
_ENDINGS: tuple[tuple[str, str], ...] = (
    ("_ms", "ms"),
    ("_at", "time, UTC"),
    ("_id", "identity; the name beside it is of now"),
)


def column_note(view: str, column: str) -> str | None:
    """What a column of a view is, with its unit; None where its name says it.

    >>> column_note("models", "memory"), column_note("pools", "name")
    ('bytes, weights plus peak activation memory', None)
    """
    found = _OF_VIEW.get((view, column)) or _NOTES.get(column)
    return found or next((note for ending, note in _ENDINGS if column.endswith(ending)), None)
