"""Segments that models share, and which model was made from which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields

from sommelier.records import Lineage, SegmentMatch
from sommelier.storage.catalog_collections import CollectionTable

_SEGMENT_COLUMNS = tuple(field.name for field in fields(SegmentMatch))
_LINEAGE_COLUMNS = tuple(field.name for field in fields(Lineage))
_SEGMENTS = f"SELECT {', '.join(_SEGMENT_COLUMNS)} FROM store.segments"
_LINEAGE = f"SELECT {', '.join(_LINEAGE_COLUMNS)} FROM store.lineage"


class SegmentTable(CollectionTable):
    """The part of the catalog that knows parts of models."""

    def replace_segments(
        self, host_id: str, donor_id: str, segments: Iterable[SegmentMatch]
    ) -> None:
        """Keep what was found for one ordered pair; what was known of the pair goes."""
        from sommelier.storage.schema import SEGMENTS

        rows = [asdict(segment) for segment in segments]
        with self._database.transaction("keep segments"):
            pair = (SEGMENTS.c.host_id == host_id) & (SEGMENTS.c.donor_id == donor_id)
            self._database.write(SEGMENTS.delete().where(pair))
            self._database.upsert(SEGMENTS, rows)

    def segments(self, host_id: str, donor_id: str | None = None) -> list[SegmentMatch]:
        """The segments of a host, of one donor or of all; by donor, in the order of the host."""
        rows = self._database.rows(
            f"{_SEGMENTS} WHERE host_id = ? AND donor_id = coalesce(?, donor_id)"
            " ORDER BY donor_id, length(name), name",
            [host_id, donor_id],
        )
        return [SegmentMatch(*row) for row in rows]

    def proposals(self) -> dict[str, str]:
        """Models that analysis found and nobody created: what found them ('segments'), by id."""
        return dict(
            self._database.rows("SELECT id, proposal FROM store.models WHERE proposal IS NOT NULL")
        )

    def add_lineage(self, links: Iterable[Lineage]) -> None:
        """Keep where models come from; a link of the same two models and kind is replaced."""
        from sommelier.storage.schema import LINEAGE

        with self._database.transaction("keep lineage"):
            self._database.upsert(LINEAGE, [asdict(link) for link in links])

    def lineage(self, model_id: str) -> list[Lineage]:
        """Where a model comes from and what comes from it; parents first."""
        rows = self._database.rows(
            f"{_LINEAGE} WHERE model_id = ? OR parent_id = ?"
            " ORDER BY model_id <> ?, relation, parent_id, model_id",
            [model_id, model_id, model_id],
        )
        return [Lineage(*row) for row in rows]
