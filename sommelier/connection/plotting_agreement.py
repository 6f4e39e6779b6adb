"""What `db.plot.agreement` draws: the agreement of each two models, from their stored answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sommelier.engine.plots.agreement import Agreements
from sommelier.engine.probe_sets import probe_set_of
from sommelier.errors import BinderError

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.records import ModelRecord

MOST = 80  # models of one matrix: each two are compared


def agreements(db: Connection, names: Sequence[str], dataset: str | None) -> Agreements:
    """Of the models of these names, or of all that answered one probe set.

    Raises UnknownNameError, BinderError for less than two models or more than MOST.
    """
    probe_set_id = None if dataset is None else probe_set_of(dataset, db.session.facts)
    if names:
        models = [db.model(name).record for name in dict.fromkeys(names)]
    else:
        probe_set_id = probe_set_id or _most_answered(db)
        models = _answering(db, probe_set_id)
    if not 2 <= len(models) <= MOST:
        raise BinderError(
            f"agreement is drawn of 2 to {MOST} models, these are {len(models)}",
            hint="name some: db.plot.agreement('a', 'b', 'c')"
            if len(models) > MOST else "ANALYZE ALL FOR EQUIVALENCE",
        )  # fmt: skip
    return _compared(db, models, probe_set_id)


def _compared(
    db: Connection, models: Sequence[ModelRecord], probe_set_id: str | None
) -> Agreements:
    count = len(models)
    shares, samples = np.full((count, count), np.nan), np.zeros((count, count), dtype=np.int64)
    used: Counter[str] = Counter()
    estimated = False
    for i, reference in enumerate(models):
        shares[i, i] = 1.0
        for j, candidate in enumerate(models):
            if i == j:
                continue
            found = db.session.semantics.agreement(reference.id, candidate.id, probe_set_id)
            if found.samples and found.probe_set_id is not None:
                shares[i, j] = found.agreements / found.samples
                samples[i, j] = found.samples
                estimated |= not found.exact
                used[found.probe_set_id] += 1
    return Agreements(
        [model.name for model in models],
        shares,
        samples,
        [model.family for model in models],
        [db.catalog.probe_set(id_).name for id_, _ in used.most_common()],
        estimated,
    )


def _most_answered(db: Connection) -> str:
    """The probe set that most models answered, of a dataset before made-up ones."""
    rows = db.catalog.sql(
        "SELECT id FROM probe_sets WHERE models > 1 ORDER BY synthetic, models DESC, samples DESC,"
        " id LIMIT 1"
    ).rows
    if not rows:
        raise BinderError(
            "no two models answered the same probes", hint="ANALYZE ALL FOR EQUIVALENCE"
        )
    return str(rows[0][0])


def _answering(db: Connection, probe_set_id: str) -> list[ModelRecord]:
    proposals = db.catalog.proposals()
    rows = db.catalog.sql(
        "SELECT model_id FROM sketches WHERE probe_set_id = ? ORDER BY model", [probe_set_id]
    ).rows
    ids = [str(id_) for (id_,) in rows if id_ not in proposals]
    known = {record.id: record for record in db.catalog.models(ids)}
    return [known[id_] for id_ in ids]
