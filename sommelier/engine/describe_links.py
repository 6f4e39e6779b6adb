"""DESCRIBE of links and plans, and what DESCRIBE MODEL says of links."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.engine.activation_table import action, plan_summary, share
from sommelier.grammar import nodes
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.link_records import ModelLink, PlannedModel

Facts = list[tuple[str, object]]

_NAMED = 5  # links of a model that are listed; SELECT LINKS has all
_COSTS = (
    ("params", "params", Dimension.COUNT),
    ("flops", "flops", Dimension.FLOPS),
    ("memory", "memory", Dimension.BYTES),
    ("size", "size", Dimension.BYTES),
    ("latency", "latency_ms", Dimension.TIME),
)


def link(reference: nodes.ModelRef, session: Session) -> Facts:
    """How good a link is, how it was made, what it costs and how it is used."""
    named = {link.name: link for link in session.facts.links()}
    found = named.get(reference.name) or session.catalog.link(reference.name)
    facts: Facts = [
        ("name", found.name),
        ("source", ", ".join(found.source_names)),
        ("target", found.target_name),
        ("state", found.state if found.stale is None else f"stale: {found.stale}"),
        ("reason", found.reason),
        *_worth(found),
        ("predicted before training", _percent(found.screen)),
        ("architecture", found.architecture),
        ("method", found.method),
        ("learned on", _samples(found)),
        ("options", _options(found.options)),
        ("source answers", _format(found.source_format)),
        ("target answers", _format(found.target_format)),
    ]
    for name, field, dimension in _COSTS:
        value = getattr(found, field)
        facts.append((name, None if value is None else format_value(value, dimension)))
    made = None if found.created_at is None else f"{found.created_at:%Y-%m-%d %H:%M:%S}"
    return [
        *facts,
        ("artifact", found.artifact),
        ("created", made),
        ("id", found.id),
        *_use(found),
    ]


def plan(reference: nodes.ModelRef, session: Session) -> Facts:
    """What a saved plan does with each model, what it is worth, and how it is run."""
    saved = session.catalog.plan(reference.name)
    found = saved.plan
    names = {model.model_id: model.name for model in found.models}
    first, *others = plan_summary(found)
    made = None if saved.created_at is None else f"{saved.created_at:%Y-%m-%d %H:%M:%S}"
    use = ("run", f"db.plan('{saved.name}').run(inputs)")
    if saved.stale is not None:
        use = ("make anew", f"CREATE OR REPLACE PLAN {saved.name} AS {saved.query}")
    return [
        ("name", saved.name),
        ("query", saved.query),
        ("state", "current" if saved.stale is None else f"stale: {saved.stale}"),
        ("objective", found.objective),
        *((model.name, _planned(model, names)) for model in found.models),
        ("worth", first),
        *(("cost" if line.split()[0] in found.budget else "chosen by", line) for line in others),
        *(("note", note) for note in found.notes),
        ("created", made),
        use,
    ]


def of_model(model_id: str, session: Session) -> Facts:
    """From what a model can be predicted, and what it predicts: usable links, the best first."""
    usable = [found for found in session.facts.links() if found.usable]
    into = [found for found in usable if found.target_id == model_id]
    out = [found for found in usable if model_id in found.source_ids]
    return [
        ("predicted from", _best(into, [", ".join(found.source_names) for found in into])),
        ("predicts", _best(out, [found.target_name for found in out])),
    ]


def _best(links: Sequence[ModelLink], ends: Sequence[str]) -> str | None:
    ranked = sorted(
        zip(links, ends, strict=True), key=lambda pair: (-(pair[0].performance or 0.0), pair[1])
    )
    told = [f"{end} ({share(found.performance)})" for found, end in ranked[:_NAMED]]
    more = f", and {len(ranked) - _NAMED} more" if len(ranked) > _NAMED else ""
    return ", ".join(told) + more if told else None


def _worth(found: ModelLink) -> Facts:
    """The figures against the target's own answers; nothing where it was not measured."""
    if found.performance is None:
        return [("constant answer", _percent(found.constant))]
    options = json.loads(found.options or "{}")
    at = f" at {options['confidence'] * 100:g}% confidence" if options.get("confidence") else ""
    share = _between(found.performance, found.low, found.high, "fraction")
    own = None
    if found.value is not None and found.value != found.performance:
        own = _between(found.value, found.value_low, found.value_high, found.unit)
    kind = "proved" if found.proved else "an estimate"
    return [
        ("performance", f"{share}{at}, {kind}, by {found.metric}"),
        (str(found.metric), own),
        ("constant answer", _percent(found.constant)),
        ("skill", _percent(found.skill)),
    ]


def _between(value: float, low: float | None, high: float | None, unit: str | None) -> str:
    dimension = Dimension.FRACTION if unit == "fraction" else Dimension.NUMBER
    word = f" in {'its own unit' if unit == 'own' else unit}" if unit != "fraction" else ""
    text = format_value(value, dimension)
    if low is None or high is None:
        return text + word
    return f"{text} [{format_value(low, dimension)}, {format_value(high, dimension)}]{word}"


def _percent(value: float | None) -> str | None:
    return None if value is None else format_value(value, Dimension.FRACTION)


def _samples(found: ModelLink) -> str | None:
    if found.dataset is None:
        return None
    data = f"'{found.dataset}'"
    if found.target_dataset is not None:
        data += f" and '{found.target_dataset}', aligned sample by sample"
    return (
        f"{found.samples} samples of {data}, tuned on {found.validation}, measured on"
        f" {found.held_out} held out; seed {found.seed}"
    )


def _options(text: str | None) -> str | None:
    options = json.loads(text or "{}")
    known = {name: value for name, value in options.items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in known.items()) or None


def _format(text: str | None) -> str | None:
    """'classes, 10 wide, as logits', of several sources one after the other."""
    if text is None:
        return None
    formats = json.loads(text)
    told = []
    for entry in formats if isinstance(formats, list) else [formats]:
        read = json.loads(entry) if isinstance(entry, str) else entry
        told.append(f"{read['kind']}, {read['width']} wide, as {read['form']}")
    return "; ".join(told)


def _use(found: ModelLink) -> Facts:
    sources = ", ".join(found.source_names)
    if not found.usable:
        again = f"CREATE OR REPLACE LINK {found.name} FROM {sources} TO {found.target_name}"
        return [("make anew", again)]
    if len(found.source_ids) > 1:
        return _run_file(found)
    names = [*found.source_names, found.target_name]
    return [
        ("use", f"SELECT PLAN FOR {sources}, {found.target_name} ON memory < 50%"),
        ("run", f"db.plan({names!r}, budget={{'memory': '50%'}}).run(inputs)"),
    ]


def _run_file(found: ModelLink) -> Facts:
    """How a link of several sources is run; plans make their ensembles of single links."""
    if found.artifact is None:
        return []
    inputs = ", ".join(f"source_{i}: {name}" for i, name in enumerate(found.source_names))
    answers = ", ".join(f"'source_{i}': answers_{i}" for i in range(len(found.source_names)))
    session = f"onnxruntime.InferenceSession(db.artifacts.path('{found.artifact}'))"
    return [
        ("inputs", f"{inputs}; natural answers (of classes probabilities, not logits)"),
        ("run", f"{session}.run(['target'], {{{answers}}})"),
    ]


def _planned(model: PlannedModel, names: dict[str, str]) -> str:
    done = action(model)
    if done == "execute":
        return "execute"
    if done == "no answer":
        return "no answer: it is not executed, and nothing predicts it"
    sources = ", ".join(names.get(id_, id_) for id_ in model.source_ids)
    told = f"predict from {sources}" if sources else "constant answer"
    interval = ""
    if model.low is not None and model.high is not None:
        interval = f" [{share(model.low)}, {share(model.high)}]"
    return f"{told}: {share(model.performance)}{interval}, skill {share(model.skill)}"
