"""Where models come from: what FROM names, a connector or a repository, a place kept under a name.

CREATE REPOSITORY keeps a connector, a place and options. For a connector that has an option for its
place (torchhub, mlflow ...) AT sets that option, and what follows the name in FROM are locations
there. For any other, such as a folder, AT is the location, and what follows are names of models.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.connection.naming import name_taken, underlined
from sommelier.connection.plain import plain_options
from sommelier.connectors.options import check, nearest
from sommelier.connectors.places import Placed
from sommelier.connectors.registry import connector, connector_names
from sommelier.errors import BinderError, ConnectorError, SommelierError, first_line
from sommelier.origin_records import Repository
from sommelier.records import Artifact, Rejection

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.connection.statements import Call
    from sommelier.connectors.base import Connector, Listing, Progress
    from sommelier.grammar import nodes

logger = logging.getLogger(__name__)

_SAID_EACH_TIME = ("trust", "module")
"""Options that have code run. A catalog may come from a stranger, so none is taken out of it: the
statement that runs the code says them."""
_LOGIN = re.compile(r"://[^/?#\s]*@")


@dataclass(frozen=True, slots=True)
class Origin:
    """A source and what it is asked for. name : as FROM says it, of models that come from it.
    names : of models, () for all; only where the locations are those of a repository. at : the
    place of a repository."""

    name: str
    connector: Connector
    locations: tuple[str, ...]
    options: Mapping[str, object]
    names: tuple[str, ...] = ()
    at: str | None = None

    def fetched(self, progress: Progress | None) -> Iterator[Artifact | Rejection]:
        """What the connector finds, under the name of this origin."""
        return self._own(
            self.connector.fetch(self.locations, options=self.options, progress=progress)
        )

    def fetched_from(self, location: str) -> Iterator[Artifact | Rejection]:
        """The same of one location, which a search came upon."""
        return self._own(self.connector.fetch((location,), options=self.options, progress=None))

    def listed(self) -> Iterator[Listing | Rejection]:
        """What `fetched` would look at, and what of it cannot be read."""
        for item in self.connector.list(self.locations, options=self.options):
            if not self.names or isinstance(item, Rejection) or item.name in self.names:
                yield item

    def _own(self, found: Iterator[Artifact | Rejection]) -> Iterator[Artifact | Rejection]:
        """Those that are asked for. Raises ConnectorError for whatever a connector should not have
        raised."""
        chosen = self._named(self._guarded(found)) if self.names else self._guarded(found)
        for item in chosen:
            yield replace(item, source=self.name)

    def _named(self, found: Iterator[Artifact | Rejection]) -> Iterator[Artifact | Rejection]:
        """Those of the names, and rejections that may be of them: what the list has under another
        name is not. Raises ConnectorError at the end for names nothing has."""
        listed = self._listing()
        by_revision = {item.revision: item.name for item in listed}
        to_come = Counter(item.name for item in listed if item.name in self.names)
        seen: set[str] = set()
        for item in found:
            name = _name_of(item, by_revision, self.names)
            if name is not None:
                seen.add(name)
                to_come[name] -= 1
                if name not in self.names:
                    continue
            yield item
            if seen.issuperset(self.names) and not any(to_come[name] > 0 for name in self.names):
                return  # before the others are read
        seen |= set(by_revision.values())
        missing = [name for name in self.names if name not in seen]
        if missing:
            raise ConnectorError(
                f"repository '{self.name}' has no model '{missing[0]}'",
                suggestions=nearest(missing[0], seen),
                hint=f"SHOW MODELS FROM {self.name}",
            )

    def _listing(self) -> tuple[Listing, ...]:
        """What the connector lists; nothing where it cannot: what it fetches says why."""
        try:
            found = self.connector.list(self.locations, options=self.options)
            return tuple(item for item in found if not isinstance(item, Rejection))
        except Exception:  # of a connector, perhaps of a third party
            logger.info("connector '%s' cannot list", self.connector.name, exc_info=True)
            return ()

    def _guarded(self, found: Iterator[Artifact | Rejection]) -> Iterator[Artifact | Rejection]:
        try:
            yield from found
        except SommelierError:
            raise
        except Exception as error:  # of a connector, perhaps of a third party
            logger.exception("connector '%s' failed", self.connector.name)
            raise ConnectorError(
                f"connector '{self.connector.name}' failed: {type(error).__name__}: "
                f"{first_line(error)}",
                hint="what came before is kept; this is a mistake of the connector",
            ) from error


def _name_of(
    item: Artifact | Rejection, by_revision: Mapping[str, str], names: tuple[str, ...]
) -> str | None:
    """The name of the model an item is of, None where a rejection does not say it."""
    if isinstance(item, Artifact):
        return item.name
    known = by_revision.get(item.revision)
    return item.revision if known is None and item.revision in names else known


def origin(
    db: Connection, name: str, locations: tuple[str, ...], options: Mapping[str, object]
) -> Origin:
    """What FROM name 'location', ... USING options means.

    Raises ConnectorError with the nearest names of connectors and repositories if there is none.
    """
    kept = db.catalog.repositories(name)
    if not kept:
        known = connector_names()
        repositories = db.catalog.repository_names()
        if name not in known and repositories:
            raise ConnectorError(
                f"there is no connector or repository '{name}'",
                suggestions=nearest(name, [*repositories, *known]),
                hint=f"repositories: {', '.join(repositories)}; connectors: {', '.join(known)}",
            )
        return Origin(name, connector(name), locations, options)
    source = connector(kept[0].connector)
    safe = {name: v for name, v in kept[0].options.items() if name not in _SAID_EACH_TIME}
    told = {**safe, **options}
    place = kept[0].place
    if place is None:
        return Origin(name, source, locations, told)
    if isinstance(source, Placed):
        return Origin(name, source, locations, {source.place: place, **told}, at=place)
    return Origin(name, source, (place,), told, locations, place)


def create_repository(statement: nodes.CreateRepository, call: Call) -> str:
    """'created', 'replaced' or 'exists'. Nothing is asked of the source.

    Raises BinderError for a name that is taken and for what is not kept, ConnectorError for an
    option it does not have.
    """
    known = call.db.catalog.repository_names()
    if statement.name in known and not statement.or_replace:
        if statement.if_not_exists:
            return "exists"
        raise name_taken("repository", statement.name, statement.span)
    if statement.name in connector_names():
        raise BinderError(
            f"'{statement.name}' is the name of a connector",
            span=statement.span,
            hint=f"another name, such as my_{statement.name}",
        )
    with underlined(statement.connector.span):
        source = connector(statement.connector.value)
    options = plain_options(statement.options, call.parameters)
    _check_kept(statement, options)
    check(source.name, options, source.options)
    place = statement.place
    if not isinstance(source, Placed):
        if place is None:
            raise BinderError(
                f"where is it? AT says it: {source.describe()}", span=statement.connector.span
            )
        path = Path(place).expanduser()
        place = str(path.absolute()) if path.exists() else place  # the same in every folder
    call.db.catalog.save_repository(Repository(statement.name, source.name, place, options))
    return "replaced" if statement.name in known else "created"


def _check_kept(statement: nodes.CreateRepository, options: Mapping[str, object]) -> None:
    """Raises BinderError for what is said each time, and for an address with a user: whoever has
    the database could read the password."""
    for name in _SAID_EACH_TIME:
        if name in options:
            said = "yes" if name == "trust" else f"'{options[name]}'"
            raise BinderError(
                f"{name} is not kept: code may run only where the import says so",
                span=statement.span,
                hint=f"IMPORT MODELS FROM {statement.name} ... USING {name} = {said}",
            )
    values = {"AT": statement.place, **options}
    for name, value in values.items():
        if _LOGIN.search(str(value)):
            raise BinderError(
                f"the address of {name} has a user or a password in it, which is not kept",
                span=statement.span,
                hint="leave them out: variables of the environment say them (see the connector's "
                "page), or each import does, with the whole address",
            )
