"""The models of a deployment: which they are, and what is known of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

from sommelier.deployment_records import DeployedModel
from sommelier.engine.common_answers import KEPT, CommonAnswers, common_answers
from sommelier.engine.names import few
from sommelier.engine.scope import located
from sommelier.errors import AnalysisError, BinderError, Span, UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.formatter import format as format_node
from sommelier.records import Measurement, Provenance

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.records import ModelRecord

_INCLUDE = "include_reference"
_KEEP_REFERENCE = nodes.Option(_INCLUDE, nodes.Boolean(True))
_RANK = {Provenance.MEASURED: 0, Provenance.ESTIMATED: 1, Provenance.DECLARED: 2}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The models that a statement means, in its order.

    reference : what the others are compared with where there are no labels; `trusted` is the place
    of the model that is where none is asked for. agreement : share of answers, by id. spans : where
    they are named, None for those a question found. absent : by id, references of the question that
    it excludes, with the reason.
    """

    records: tuple[ModelRecord, ...]
    spans: tuple[Span | None, ...]
    reference: str | None = None
    agreement: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()
    trusted: int = 0
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """By id; with the version where two have one name."""
        return names_of(self.records)


def names_of(records: Iterable[ModelRecord]) -> dict[str, str]:
    """What a deployment calls its models, by id; with the version where two have one name."""
    known = tuple(records)
    counts = Counter(record.name for record in known)
    return {r.id: r.name if counts[r.name] == 1 else f"{r.name}@{r.version}" for r in known}


# ---- which models


def of_select(select: nodes.Select, session: Session) -> Chosen:
    """The models that answer a question, and how well they agree with its reference.

    The reference, which the others stand in for, is one of them unless the question excludes it:
    by its conditions, by PICK or LIMIT, which say how many, or USING include_reference = false.
    """
    columns = [nodes.Projection(nodes.Column("id"))]
    if select.corr is None:
        result = session.run(replace(select, projection=tuple(columns), distinct=False))
        records = tuple(session.catalog.models(list(result.ids)))
        return Chosen(records, (None,) * len(records), notes=tuple(result.notes))
    columns.append(nodes.Projection(nodes.Column("agreement")))
    asked = replace(select, projection=tuple(columns), distinct=False)
    said = [option for option in select.options if option.name.lower() == _INCLUDE]
    if not said and select.pick is None and select.limit is None:
        asked = replace(asked, options=(*select.options, _KEEP_REFERENCE))
    result = session.run(asked)
    notes = list(result.notes)
    absent: dict[str, str] = {}
    if not said:
        within, absent = _references(asked, list(result.ids), session)
        notes += within
    records = tuple(session.catalog.models(list(result.ids)))
    shares = zip(result.ids, result.column("agreement").tolist(), strict=True)
    agreement = {id_: float(share) for id_, share in shares if share == share and share is not None}
    reference = format_node(select.corr.reference)
    return Chosen(
        records, (None,) * len(records), reference, agreement, tuple(notes), absent=absent
    )


def _references(
    asked: nodes.Select, ids: Sequence[str], session: Session
) -> tuple[list[str], dict[str, str]]:
    """(a note on references that answer too, those that do not with the reason, by id)."""
    corr = session.plan(asked).corr
    references = () if corr is None else corr.references
    within = [one.name for one in references if one.id in ids]
    chosen = asked.pick is not None or asked.limit is not None
    why = "PICK and LIMIT choose among the others" if chosen else "the question excludes it"
    absent = {one.id: f"{one.name} itself does not answer, as {why}" for one in references}
    told = "the reference" if len(within) == 1 else "references"
    note = f"{few(within)}, {told}, answer{'s' * (len(within) == 1)} too"
    return (
        [f"{note}: USING include_reference = false if not"] if within else [],
        {id_: told for id_, told in absent.items() if id_ not in ids},
    )


def absent_notes(chosen: Chosen) -> list[str]:
    """On references that are not among the models after all."""
    ids = {record.id for record in chosen.records}
    return [f"{why}: FALLBACK TO adds it" for id_, why in chosen.absent.items() if id_ not in ids]


def of_pool(name: str, session: Session, span: Span | None) -> Chosen:
    """The models of a pool; compared with the reference of the question that filled it."""
    from sommelier.grammar.parser import parse

    try:
        pool = session.catalog.pool(name)
    except UnknownNameError as error:
        raise located(error, span) from None
    records = tuple(session.catalog.models(pool.ids))
    asked = parse(pool.query)
    chosen = Chosen(records, (None,) * len(records))
    if isinstance(asked, nodes.Select) and asked.corr is not None:
        return _compared(chosen, asked.corr.reference, session)
    return chosen


def of_names(references: Sequence[nodes.ModelRef], session: Session) -> Chosen:
    """Models that are named one by one. Raises UnknownNameError, BinderError for a repeated one."""
    records: list[ModelRecord] = []
    for reference in references:
        try:
            record = session.facts.model(reference.name, reference.version)
        except UnknownNameError as error:
            raise located(error, reference.span) from None
        if record.id in [other.id for other in records]:
            raise BinderError(f"{record.name} is named twice", span=reference.span)
        records.append(record)
    return Chosen(tuple(records), tuple(reference.span for reference in references))


def compared(chosen: Chosen, session: Session) -> Chosen:
    """The same, with agreements where none are known yet: with the model that is trusted."""
    if chosen.agreement is not None or not chosen.records:
        return chosen
    first = chosen.records[chosen.trusted]
    found = _compared(chosen, nodes.ModelRef(first.name, first.version), session)
    ids = {record.id for record in chosen.records}
    if (found.agreement or {}).keys() & ids <= {first.id}:  # it agrees with itself, as all do
        found = replace(found, agreement={})
    return replace(found, reference=chosen.names[first.id])


def _compared(
    chosen: Chosen, reference: nodes.Reference | nodes.Parameter, session: Session
) -> Chosen:
    any_ = nodes.CorrCondition("agreement", ">=", nodes.Percent(0.0))
    select = nodes.Select(
        projection=(
            nodes.Projection(nodes.Column("id")),
            nodes.Projection(nodes.Column("agreement")),
        ),
        corr=nodes.Corr(reference, (any_,)),
        options=(_KEEP_REFERENCE,),
    )
    name = format_node(reference)
    try:
        result = session.run(select)
    except BinderError:  # nothing it answered is known: agreements stay unknown
        return replace(chosen, reference=name, agreement={})
    shares = zip(result.ids, result.column("agreement").tolist(), strict=True)
    known = {id_: float(share) for id_, share in shares if share is not None and share == share}
    return replace(chosen, reference=name, agreement=known)


# ---- what is known of each


def known_models(
    chosen: Chosen, session: Session, *, dataset: str | None, device: str | None
) -> tuple[tuple[DeployedModel, ...], str | None, tuple[str, ...]]:
    """(the models with accuracy and latency, the dataset of the accuracy, notes).

    dataset : whose labels count; None takes that on which most of the models were measured.
    device : whose latencies count, 'cpu' for None. What is not known stays None and is told.
    """
    numbers = {r.id: session.catalog.measurements(r.id) for r in chosen.records}
    accuracy, basis, on, notes = _weighed(chosen, numbers, session, dataset)
    models = []
    names = chosen.names
    for record in chosen.records:
        mean, std = latency_of(numbers[record.id], device or "cpu")
        share = accuracy.get(record.id)
        told = basis if share is not None else None
        models.append(DeployedModel(names[record.id], record.id, share, mean, std, basis=told))
    notes += _unknown(models, device)
    return tuple(models), on if accuracy else None, tuple(notes)


def _weighed(
    chosen: Chosen,
    numbers: Mapping[str, Sequence[Measurement]],
    session: Session,
    dataset: str | None,
) -> tuple[Mapping[str, float], str, str | None, list[str]]:
    """(what counts as accuracy by id, what that is, the dataset it is on, notes): as measured on
    labels, else of stored answers to labelled samples, else agreement with the reference."""
    by_dataset = {id_: _accuracies(found) for id_, found in numbers.items()}
    on = dataset or _most_measured(by_dataset.values())
    labelled = {id_: found[on] for id_, found in by_dataset.items() if on in found}
    measured = f"accuracy on '{on}'"
    if len(labelled) == len(chosen.records):
        return labelled, measured, on, []
    stored = _stored(chosen, session, dataset) if chosen.agreement is None else None
    if stored is not None and stored.accuracies is not None:
        ids = [record.id for record in chosen.records]
        found = dict(zip(ids, stored.accuracies, strict=True))
        note = f"accuracy is that of stored answers to {stored.data}"
        return found, f"accuracy on '{stored.probes.name}'", stored.probes.name, [note]
    if dataset is None:
        chosen = compared(chosen, session)
        agreement = chosen.agreement or {}
        if len(agreement) > len(labelled):
            basis, names = f"agreement with {chosen.reference}", list(chosen.names.values())
            note = (
                f"not all models were measured on labels, so what counts is {basis}, which itself"
                f" counts as 100%: ANALYZE {', '.join(names[:5])} FOR ACCURACY"
            )
            return agreement, basis, None, [note]
    return labelled, measured, on, []


def _stored(chosen: Chosen, session: Session, dataset: str | None) -> CommonAnswers | None:
    """What a few classifiers answered to the same samples, where that is kept."""
    if not 1 < len(chosen.records) <= KEPT:
        return None
    try:
        return common_answers(chosen.records, session, dataset)
    except AnalysisError:  # they choose no classes
        return None


def _unknown(models: Sequence[DeployedModel], device: str | None) -> list[str]:
    notes = []
    unmeasured = [model.name for model in models if model.accuracy is None]
    if unmeasured and len(models) > 1:
        notes.append(
            f"the accuracy of {few(unmeasured)} is unknown: ANALYZE {', '.join(unmeasured[:5])} FOR"
            " ACCURACY, EQUIVALENCE"
        )
    untimed = [model.name for model in models if model.mean_ms is None]
    if untimed:
        notes.append(
            f"the latency of {few(untimed)} on '{device or 'cpu'}' is unknown until requests are"
            f" answered: ANALYZE {', '.join(untimed[:5])} FOR LATENCY"
        )
    return notes


def _accuracies(numbers: Iterable[Measurement]) -> dict[str, float]:
    """By dataset; measured before declared."""
    found: dict[str, Measurement] = {}
    for m in numbers:
        if m.metric == "accuracy" and m.dataset is not None:
            known = found.get(m.dataset)
            if known is None or _RANK[m.provenance] < _RANK[known.provenance]:
                found[m.dataset] = m
    return {dataset: m.value for dataset, m in found.items()}


def _most_measured(accuracies: Iterable[Mapping[str, float]]) -> str | None:
    counts = Counter(dataset for found in accuracies for dataset in found)
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None


def latency_of(numbers: Iterable[Measurement], device: str) -> tuple[float | None, float | None]:
    """(mean, deviation) of one sample in ms; the deviation is None where only the median is known,
    both where nothing is.

    Of a log-normal through the median and the first quantile above it, which one slow run does not
    move; the mean and its share of deviations reach the last quantile.
    """
    timed = [m for m in numbers if m.metric == "latency" and m.device == device]
    timed = [m for m in timed if m.batch in (1, None)]
    if not timed:
        return None, None
    best = min(_RANK[m.provenance] for m in timed)
    threads = min(m.threads or 0 for m in timed if _RANK[m.provenance] == best)
    quantiles = {
        m.percentile or 50: m.value
        for m in timed
        if _RANK[m.provenance] == best and (m.threads or 0) == threads
    }
    median = quantiles.get(50)
    if not median:
        return None, None
    above = sorted((p, value) for p, value in quantiles.items() if p > 50 and value > 0)
    if not above:
        return median, None
    place = NormalDist().inv_cdf(above[0][0] / 100)
    spread = max(0.0, math.log(above[0][1] / median)) / place
    most = 0.7 * median + 0.2 * above[0][1] + 0.1 * above[-1][1]  # a heavy tail has no such mean
    mean = min(median * math.exp(spread**2 / 2), most)
    last = NormalDist().inv_cdf(above[-1][0] / 100)
    return mean, max(above[-1][1] - mean, 0.0) / last


def quantile_ms(model: DeployedModel, quantile: float) -> float | None:
    """What `quantile` of the model's runs take at most: the mean and so many deviations, as the
    policies reckon; an estimate. At 1 two deviations. None where no latency is known."""
    if model.mean_ms is None:
        return None
    return model.mean_ms + deviations(quantile) * (model.std_ms or 0.0)


def deviations(quantile: float) -> float:
    """How many deviations above its mean `quantile` of a model's runs stay; at 1 two."""
    return NormalDist().inv_cdf(quantile) if 0 < quantile < 1 else 2.0
