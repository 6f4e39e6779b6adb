"""The public contract helper tells a broken connector by the promise it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.search import Candidate, Term
from sommelier.connectors.testing import CHECKS, ContractError, Sample, check_connector
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Measurement, Provenance, Rejection

SAMPLE = Sample(("here",), "nowhere")


class Sound:
    """Keeps every promise over two rows that stand in the code."""

    name = "sound"
    options: Mapping[str, str] = {"max_size": "largest model to accept"}

    def describe(self) -> str:
        return "the word 'here'"

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        opt.check(self.name, options, self.options)
        if not locations:
            raise ConnectorError("no location", hint="FROM sound 'here'")
        if locations != ("here",):
            raise ConnectorError(f"there is no '{locations[0]}'")
        return self._items(progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        for item in self.fetch(locations, options=options):
            if isinstance(item, Artifact):
                yield Listing(item.name, str(item.revision))

    def _items(self, progress: Progress | None) -> Iterator[Artifact | Rejection]:
        yield self._artifact()
        yield self._rejection()
        if progress:
            progress("", 2, 2)

    def _artifact(self) -> Artifact:
        number = Measurement("", "accuracy", 0.5, Provenance.DECLARED, "its author")
        return Artifact("a", None, "sound", "here:1", None, {"task": "t"}, (number,))

    def _rejection(self) -> Rejection:
        return Rejection("sound", "here:2", "no name")


class Silent(Sound):
    def describe(self) -> str:
        return ""


class Homeless(Sound):
    place = "server"


class Asked(Sound):
    """A source that can be searched."""

    facts: Mapping[str, type] = {"task": str, "downloads": int}
    order = "newest first"

    def pushed(self, term: Term) -> str | None:
        return None

    def search(
        self, terms: tuple[Term, ...], *, options: Mapping[str, object]
    ) -> Iterator[Candidate]:
        yield Candidate("a", "here", {"task": "t"})


class Dashed(Asked):
    facts: Mapping[str, type] = {"model-task": str}


class Placeable(Asked):
    """Sound, with all that a connector may add; a place alone stands for all that is there."""

    place = "server"
    options: Mapping[str, str] = {"server": "where locations are looked up"}
    facts: Mapping[str, type] = {"task": str, "downloads": float, "tags": tuple}

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        everything = ("here",) if "server" in options else ()
        return super().fetch(locations or everything, options=options, progress=progress)


class Lossy(Sound):
    def _items(self, progress: Progress | None) -> Iterator[Artifact | Rejection]:
        yield self._artifact()


class Foreign(Sound):
    def _artifact(self) -> Artifact:
        return Artifact("a", None, "other", "here:1", None)


class Missing(Sound):
    def _artifact(self) -> Artifact:
        return Artifact("a", None, "sound", "here:1", Path("/no/such/file.onnx"))


class Inventive(Sound):
    def _artifact(self) -> Artifact:
        return Artifact("a", None, "sound", "here:1", None, {"stars": 5})


class Untyped(Sound):
    def _artifact(self) -> Artifact:
        return Artifact("a", None, "sound", "here:1", None, {"tags": "fast, small"})


class Percent(Sound):
    def _artifact(self) -> Artifact:
        number = Measurement("", "accuracy", 76.1, Provenance.DECLARED, "its author")
        return Artifact("a", None, "sound", "here:1", None, {}, (number,))


class Boastful(Sound):
    def _artifact(self) -> Artifact:
        number = Measurement("", "latency", 1.0, Provenance.MEASURED, "its author")
        return Artifact("a", None, "sound", "here:1", None, {}, (number,))


class Unsendable(Sound):
    def _artifact(self) -> Artifact:
        return Artifact("a", None, "sound", "here:1", None, {"note": "x", "task": _Text("t")})


class _Text(str):
    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return str.upper, (str(self),)


class Counting(Sound):
    calls = 0

    def _artifact(self) -> Artifact:
        type(self).calls += 1
        return Artifact("a", None, "sound", f"here:{self.calls}", None)


class Once(Sound):
    """Keeps its place in itself, so that two fetches at once take each other's items."""

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        self.waiting = list(super().fetch(locations, options=options, progress=progress))
        return self._taken()

    def _taken(self) -> Iterator[Artifact | Rejection]:
        while self.waiting:
            yield self.waiting.pop(0)


class Clinging(Sound):
    def _items(self, progress: Progress | None) -> Iterator[Artifact | Rejection]:
        try:
            yield from super()._items(progress)
        except GeneratorExit:
            raise OSError("cannot be closed") from None


class Unlisted(Sound):
    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        return iter(())


class Unfinished(Sound):
    def _items(self, progress: Progress | None) -> Iterator[Artifact | Rejection]:
        if progress:
            progress("a", 0, 2)
        yield self._artifact()
        yield self._rejection()


class Lenient(Sound):
    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        return super().fetch(locations, options={}, progress=progress)


class Crashing(Sound):
    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        if locations == ("nowhere",):
            raise FileNotFoundError(locations[0])
        return super().fetch(locations, options=options, progress=progress)


class Terse(Sound):
    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        if not locations:
            raise ConnectorError("no location")
        return super().fetch(locations, options=options, progress=progress)


BROKEN: tuple[tuple[type[Sound], str, str], ...] = (
    (Silent, "describes_itself", "says nothing"),
    (Homeless, "describes_itself", "place is 'server', which is none of its options: max_size"),
    (Asked, "describes_itself", "the fact 'downloads' is"),
    (Dashed, "describes_itself", "'model-task' is no word"),
    (Lossy, "yields_artifacts_and_rejections", "yields Artifact"),
    (Foreign, "yields_artifacts_and_rejections", "is not 'sound'"),
    (Missing, "yields_artifacts_and_rejections", "no file /no/such/file.onnx"),
    (Inventive, "declares_facts_by_known_names", "'stars', which means nothing"),
    (Untyped, "declares_facts_by_known_names", "tags = 'fast, small'"),
    (Percent, "states_numbers_as_declared", "fractions"),
    (Boastful, "states_numbers_as_declared", "said to be measured"),
    (Unsendable, "sends_artifacts_to_workers", "changed by pickling"),
    (Counting, "finds_the_same_twice", "something else"),
    (Once, "finds_the_same_twice", "disturb each other"),
    (Clinging, "stops_when_enough_is_found", "dropped after its first.*cannot be closed"),
    (Unlisted, "lists_what_it_fetches", "not listed: a"),
    (Unfinished, "reports_progress_to_its_end", "not at its total"),
    (Lenient, "refuses_an_unknown_option", "max_sizes = 'x' is not refused"),
    (Crashing, "refuses_a_location_that_leads_nowhere", "FileNotFoundError"),
    (Terse, "refuses_to_start_without_a_location", "FROM sound"),
)


@pytest.mark.parametrize(
    ("sound", "options"), [(Sound, {}), (Placeable, {}), (Placeable, {"server": "there"})]
)
def test_a_sound_connector_passes(sound: type[Sound], options: Mapping[str, object]) -> None:
    check_connector(sound(), Sample(("here",), "nowhere", options))


@pytest.mark.parametrize(("broken", "promise", "words"), BROKEN, ids=lambda value: str(value)[:40])
def test_a_broken_promise_is_found_and_named(broken: type[Sound], promise: str, words: str) -> None:
    check = {check.__name__: check for check in CHECKS}[promise]
    with pytest.raises(ContractError, match=words):
        check(broken(), SAMPLE)
    with pytest.raises(ContractError):
        check_connector(broken(), SAMPLE)


def test_a_connector_that_loads_numpy_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "weighty.py"
    module.write_text(
        "import numpy\nfrom tests.connectors.test_testing import Sound\n\n"
        "class Weighty(Sound):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from weighty import Weighty  # the file just written

    check = {check.__name__: check for check in CHECKS}["loads_nothing_heavy"]
    with pytest.raises(ContractError, match="loads numpy"):
        check(Weighty(), SAMPLE)
