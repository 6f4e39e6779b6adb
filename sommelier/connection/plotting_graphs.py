"""What `db.plot.lineage` and `db.plot.links` draw: which model comes from which, or predicts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.engine.plots.lineage import Family, Origin
from sommelier.engine.plots.links import Link, Links
from sommelier.engine.plots.picture import plural

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection

MOST = 60  # arrows of one picture of all models
_NO_ORIGIN = "unrelated"


def family(db: Connection, name: str | None) -> Family:
    """All that is known, or what is connected with a model: where it comes from and what comes of
    it, and their parents and children. Raises UnknownNameError."""
    proposals = db.catalog.proposals()
    rows = db.catalog.sql(
        "SELECT coalesce(model, 'dropped'), coalesce(parent, 'dropped'), relation, provenance,"
        " model_id, parent_id FROM lineage ORDER BY ALL"
    ).rows
    proposed = [row for row in rows if row[4] in proposals or row[5] in proposals]
    unrelated = [row for row in rows if row[2] == _NO_ORIGIN and row not in proposed]
    kept = [row for row in rows if row not in proposed and row not in unrelated]
    model = None if name is None else db.model(name).name
    origins = [Origin(*map(str, row[:4])) for row in kept]
    if model is not None:
        origins = _connected(origins, model)
    told = []
    if name is None and len(origins) > MOST:
        told.append(f"not drawn: {len(origins) - MOST} more relations (SELECT * FROM lineage)")
        origins = origins[:MOST]
    if proposed:
        count = len({row[4] for row in proposed})
        told.append(f"not drawn: {plural(count, 'proposal')} that nobody created")
    if unrelated:
        told.append(f"not drawn: {plural(len(unrelated), 'pair')} found to be unrelated")
    return Family(origins, model, _about(db), tuple(told))


def _connected(origins: Sequence[Origin], model: str) -> list[Origin]:
    """Those between the ancestors of a model, itself, and its descendants."""
    found = {model}
    for own, other in (("model", "parent"), ("parent", "model")):
        reached = {model}
        while True:
            more = {getattr(o, other) for o in origins if getattr(o, own) in reached} - reached
            if not more:
                break
            reached |= more
        found |= reached
    children = [o for o in origins if o.model in found]  # and the other parents of what came of it
    return [o for o in children if o.parent in found or o.model != model]


def _about(db: Connection) -> dict[str, str]:
    """The task of each model."""
    rows = db.catalog.sql("SELECT name, task FROM models WHERE task IS NOT NULL").rows
    return {str(name): str(task) for name, task in rows}


def usable_links(db: Connection) -> Links:
    """The links that may stand for answers; the others are counted by why they may not."""
    every = db.catalog.links()
    used = [
        Link(k.name, k.source_names, k.target_name, k.performance, k.low, k.high, k.proved)
        for k in every
        if k.usable
    ]
    why = Counter("stale" if k.stale is not None else k.state for k in every if not k.usable)
    told = ", ".join(f"{count} {word}" for word, count in why.most_common())
    return Links(used, (f"not drawn, not in use: {told} (SHOW LINKS)",) if why else ())
