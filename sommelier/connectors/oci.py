"""Connector `oci`: models of OCI registries, as ModelPack artifacts or as files pushed by oras.

A location is a repository with all its tags ('registry.example.org/models/resnet18'), one artifact
(':v2', '@sha256:...'), or a registry, or a path of it, of which the catalog is asked. Facts come
from manifests and configs alone; of a model only the layers of its weights are fetched. Nothing is
ever written to a registry.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from sommelier.connectors import oci_facts as said
from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.naming import printable
from sommelier.connectors.oci_files import Brought, Files
from sommelier.connectors.oci_locations import PLACE, Found, Group, Registries
from sommelier.connectors.oci_names import wanted
from sommelier.connectors.search import BusySourceError, Candidate, Term
from sommelier.connectors.web import UnreachableError
from sommelier.errors import ConnectorError, first_line, reason
from sommelier.records import Artifact, Rejection

log = logging.getLogger(__name__)


class OciConnector:
    """Reads OCI registries: their manifests and configs, and the ONNX files in their layers."""

    name = "oci"
    place = PLACE
    options: Mapping[str, str] = {
        "registry": "where to look: a registry, or a path of it, that locations are below",
        "insecure": "whether to speak http where a location does not say https (no)",
        "max_size": "largest model to accept, external data included (2 GB)",
    }

    facts = said.FACTS
    order = "as the registry lists its repositories, and their tags"

    def describe(self) -> str:
        """What a location is."""
        return (
            "models of an OCI registry: 'host/path:tag', 'host/path@sha256:...', 'host/path' for "
            "all its tags, 'host' for its catalog; or 'path:tag' USING registry = 'host'"
        )

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact for each ONNX file of each artifact."""
        opt.check(self.name, options, self.options)
        limit = opt.size(options, "max_size", opt.MAX_MODEL_BYTES)
        return self._models(Registries(options).find(locations), limit, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The models at the locations, by their manifests; no layer is fetched."""
        opt.check(self.name, options, self.options)
        limit = opt.size(options, "max_size", opt.MAX_MODEL_BYTES)
        for group in Registries(options).find(locations):
            for found in group.artifacts():
                for name, size in _listed(found, limit):
                    yield Listing(name, found.revision, size)

    def pushed(self, _term: Term) -> str | None:
        """None: registries list, and filter nothing."""
        return None

    def search(
        self, terms: tuple[Term, ...], *, options: Mapping[str, object]
    ) -> Iterator[Candidate]:
        """Every artifact at the place that may be a model. Of repositories whose names cannot pass
        nothing is asked. Raises ConnectorError."""
        opt.check(self.name, options, self.options)
        for group in Registries(options).find(()):
            name = group.repository.name
            if not wanted(name, terms):
                continue
            for found in _readable(group):
                if found.manifest is None or not found.manifest.is_image:
                    yield Candidate(name, found.location, _facts(found))

    def _models(
        self, groups: Sequence[Group], limit: int, progress: Progress | None
    ) -> Iterator[Artifact | Rejection]:
        busy: BusySourceError | None = None
        for done, group in enumerate(groups):
            where = group.repository.where
            if progress:
                progress(where, done, len(groups))
            try:
                if busy is not None:
                    raise busy
                for found in group.artifacts():
                    yield from self._artifacts(found, limit)
            except ConnectorError as error:
                busy = error if isinstance(error, BusySourceError) else None
                yield Rejection(self.name, where, reason(error))
        if progress:
            progress("", len(groups), len(groups))

    def _artifacts(self, found: Found, limit: int) -> Iterator[Artifact | Rejection]:
        """The models of one artifact, or why there is none."""
        try:
            if found.manifest is None:
                raise found.refused or ConnectorError("its manifest cannot be had")
            stated = _stated(found)
            files = Files(found.repository, found.manifest, stated.format, limit)
            for one in files.brought():
                yield self._artifact(found, stated, one)
        except BusySourceError:
            raise
        except ConnectorError as error:
            yield Rejection(self.name, found.revision, reason(error))

    def _artifact(self, found: Found, stated: said.Stated, one: Brought) -> Artifact | Rejection:
        inside = "" if one.alone else f"#{printable(str(one.file.path))}"
        where = f"{found.revision}{inside}"
        if one.path is None:
            error = one.refused or ConnectorError("its file cannot be had")
            return Rejection(self.name, where, reason(error))
        declared = said.declared(stated, found.tags, whole=one.alone)
        if one.external:
            declared["external_data"] = [str(file) for file in one.external]
        numbers = said.measurements(stated, where, whole=one.alone)
        return Artifact(one.file.name, found.version, self.name, where, one.path, declared, numbers)


def _listed(found: Found, limit: int) -> list[tuple[str, int | None]]:
    """Name and bytes of each model that `fetch` would look at."""
    if found.manifest is not None:
        try:
            return list(Files(found.repository, found.manifest, None, limit).listed())
        except ConnectorError as error:
            log.info("%s: %s", found.revision, first_line(error))
    return [(found.repository.name, None if found.manifest is None else found.manifest.size)]


def _readable(group: Group) -> list[Found]:
    """The artifacts of a repository; none of one that the catalog names and does not hand out."""
    try:
        return group.artifacts()
    except (BusySourceError, UnreachableError):
        raise
    except ConnectorError as error:
        log.warning("%s is not searched: %s", group.repository.where, first_line(error))
        return []


def _stated(found: Found) -> said.Stated:
    """What the config says; one that cannot be had costs the model its facts, nothing more."""
    manifest, repository = found.manifest, found.repository
    assert manifest is not None, "asked of what has a manifest"
    config = said.configured(manifest)
    try:
        body = None if config is None else repository.registry.small(repository.path, config)
        return said.stated(manifest, body)
    except BusySourceError:
        raise
    except ConnectorError as error:
        return said.unknown(manifest, f"its config is not read: {reason(error)}")


def _facts(found: Found) -> dict[str, object]:
    """What WHERE may ask of an artifact, by its manifest and config."""
    name = found.repository.name
    if found.manifest is None:
        return {"name": name, "version": found.version}
    return said.facts(name, found.version, found.tags, _stated(found))
