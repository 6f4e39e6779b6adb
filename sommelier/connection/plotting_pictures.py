"""What `db.plot.disagreements` draws: SHOW DISAGREEMENTS with the images themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.engine.parameters import as_parameters
from sommelier.engine.plots.disagreements import Differences, Differing
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.grammar.builder import QueryBuilder, model_name

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection


def differences(
    db: Connection, reference: str, candidate: str, dataset: str | None, limit: int
) -> Differences:
    """Raises UnknownNameError; BinderError where they answered no common probes, or no images."""
    from sommelier.analysis import datasets
    from sommelier.connection.comparing import disagreements, probes_of_both

    one, other = db.model(reference), db.model(candidate)
    probes = probes_of_both((one.record, other.record), db, dataset)
    if probes.dataset is None:
        raise BinderError(
            "the models answered made-up probes, of which there are no images",
            hint="ANALYZE both FOR EQUIVALENCE USING dataset = 'your images'",
        )
    chosen = () if dataset is None else QueryBuilder().using(dataset=dataset).query.options
    statement = nodes.Show(
        "disagreements",
        of=(nodes.ModelRef(*model_name(reference)), nodes.ModelRef(*model_name(candidate))),
        limit=limit,
        options=chosen,
    )
    table = disagreements(statement, db, as_parameters(None))
    with datasets.reopen(probes.dataset, verify=False) as items:
        rows = [_differing(row, items.item(int(str(row[0])))) for row in table.rows]
    return Differences((one.name, other.name), rows, table.notes[:1])


def _differing(row: tuple[object, ...], item: Any) -> Differing:
    item_number, one, other, truth, right, *_ = row
    image = None if isinstance(item, bytes) else np.asarray(item)
    if image is None or image.ndim not in (2, 3) or (image.ndim == 3 and not _channels(image)):
        shape = "the bytes of a file" if image is None else f"of shape {list(image.shape)}"
        raise BinderError(
            f"items of this dataset are no images: {shape}",
            hint="SHOW DISAGREEMENTS tells them as rows",
        )
    return Differing(
        int(str(item_number)), image, (str(one), str(other)),
        None if truth is None else str(truth), None if right is None else str(right),
    )  # fmt: skip


def _channels(image: Any) -> bool:
    return image.shape[2] in (1, 3, 4) or image.shape[0] in (1, 3)
