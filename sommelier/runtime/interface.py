"""The inputs and outputs that the models of a deployment share, whatever each one calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from sommelier.deployment_records import counterparts
from sommelier.errors import AnalysisError, InputError
from sommelier.records import TensorSpec
from sommelier.runtime.feeds import Feed, InputCheck, size_of
from sommelier.runtime.predictor import Predictor
from sommelier.runtime.session_cache import ServedModel
from sommelier.runtime.wishes import count_of_items, unknown_output

Array = NDArray[Any]
Specs = tuple[TensorSpec, ...]
Given = Mapping[str, Any] | Array | Sequence[bytes]
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What one model takes and gives. form : equal for models that take the same tensors.
    together : samples of several requests that are better decided about together; 1: none are.
    joins : they are better answered in one run than in turn."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    check: InputCheck
    form: str
    together: int = 1
    joins: bool = False

    @classmethod
    def of(cls, predictor: Predictor) -> Signature:
        model, batch = predictor.model.name, predictor.settings.batch
        found = cls._of(model, predictor.inputs, predictor.outputs, batch)
        return replace(found, together=predictor.most_together, joins=predictor.joins)

    @classmethod
    def declared(cls, model: ServedModel, batch: int) -> Signature | None:
        """As the catalog knows a model that is not loaded; None where it does not."""
        if not model.inputs or not model.outputs:
            return None
        try:
            return cls._of(model.name, model.inputs, model.outputs, batch)
        except AnalysisError:  # it cannot be loaded either
            return None

    @classmethod
    def _of(cls, name: str, inputs: Specs, outputs: Specs, batch: int) -> Signature:
        return cls(inputs, outputs, InputCheck(name, inputs, batch), f"{inputs} {batch}")


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """A model that was loaded. inputs : its names by those of the deployment. outputs : the names
    of the deployment by its own. None: they are the same."""

    signature: Signature
    inputs: Mapping[str, str] | None
    outputs: Mapping[str, str] | None

    @classmethod
    def of(cls, signature: Signature, first: Signature) -> _Member:
        inputs = counterparts(first.inputs, signature.inputs)
        outputs = {own: n for n, own in counterparts(first.outputs, signature.outputs).items()}
        return cls(signature, _unless_same(inputs), _unless_same(outputs))


def _unless_same(names: Mapping[str, str]) -> Mapping[str, str] | None:
    return names if any(one != other for one, other in names.items()) else None


class Interface:
    """What a deployment takes and gives: as the first of its models, loaded or not; where nothing
    is known of that before it is loaded, as the first that was. It does not change from then on.

    A request that names tensors is checked once, when it comes, and each model that takes the same
    tensors is fed without another look. What a model calls otherwise is renamed
    (`deployment_records.counterparts`). Raw items have no names: each model prepares them as it
    declares.
    """

    def __init__(self, models: Sequence[str], declared: Signature | None = None) -> None:
        """models : names, the one whose names count first. declared : of that one."""
        self.together, self.joins = 1, False  # as of Signature, of all models that were loaded
        self._order = tuple(models)
        self._declared = declared
        self._known: dict[str, _Member] = {}
        self._first: Signature | None = None
        self._varies = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """() until a model was loaded."""
        return self._first.inputs if self._first else ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """() until a model was loaded."""
        return self._first.outputs if self._first else ()

    def knows(self, name: str) -> bool:
        """Whether a model was loaded once."""
        return name in self._known

    def learn(self, name: str, predictor: Predictor) -> None:
        """A model was loaded."""
        if name not in self._known:
            signatures = {known: member.signature for known, member in self._known.items()}
            signatures[name] = own = Signature.of(predictor)
            first = self._first or self._declared or own
            if first is self._declared and name == self._order[0]:
                first = own  # of which there was only the catalog's word
            self.together = min(signature.together for signature in signatures.values())
            self.joins = all(signature.joins for signature in signatures.values())
            known = {model: _Member.of(found, first) for model, found in signatures.items()}
            self._first, self._varies = first, first.check.varies
            self._known = known  # replaced, not changed: requests read it meanwhile

    def receive(self, given: Given, outputs: Sequence[str] | None) -> Inputs:
        """What a request brings. Raises InputError where it fits none of the models that were
        loaded so far, or asks for an output there is not."""
        if outputs is not None and self._first is not None:
            self._check_outputs(outputs)
        if type(given) is not dict and not isinstance(given, Mapping):  # the latter takes long
            return Inputs(given, count_of_items(given), {}, _NONE)
        first = self._first
        if first is None:
            return Inputs(given, 1, {}, frozenset())
        feed = first.check(given)
        size = size_of(feed.tensors) / feed.samples if self._varies else 0.0
        unfit = _NONE
        if len(self._known) > 1:
            others = self._known.items()
            unfit = frozenset(name for name, other in others if not self._fits(other, given))
        return Inputs(given, feed.samples, {first.form: feed}, unfit, size)

    def feed(self, inputs: Inputs, name: str, predictor: Predictor) -> Feed:
        """The inputs as a model takes them. Raises InputError."""
        given = inputs.given
        if type(given) is not dict and not isinstance(given, Mapping):
            return predictor.feed_items(given)
        form = self.form_of(name, predictor)
        found = inputs.feeds.get(form)
        if found is None:
            member = self._known[name]
            found = member.signature.check(_renamed(given, member))
            inputs.feeds[form] = found
        return found

    def feeds_alike(
        self, name: str, samples: int, requests: Sequence[dict[str, Any]]
    ) -> list[Feed]:
        """Of requests whose tensors have the names, types and shapes of one that a model was fed
        with before. samples : of each."""
        member = self._known[name]
        if member.inputs is None:
            return [Feed(given, samples) for given in requests]
        return [Feed(dict(_renamed(given, member)), samples) for given in requests]

    def form_of(self, name: str, predictor: Predictor) -> str:
        """The form of what a model takes, as of Signature."""
        if name not in self._known:
            self.learn(name, predictor)
        return self._known[name].signature.form

    def renames_outputs(self, name: str) -> bool:
        """Whether a model that was loaded calls its outputs otherwise than the deployment."""
        return self._known[name].outputs is not None

    def outputs_of(
        self, name: str, found: Mapping[str, Array], wanted: Sequence[str] | None
    ) -> Mapping[str, Array]:
        """A model's outputs by the deployment's names. wanted : only these; None: all."""
        names = self._known[name].outputs
        if names is not None:
            found = {names.get(own, own): value for own, value in found.items()}
        if wanted is None:
            return found
        missing = [output for output in wanted if output not in found]
        if missing:
            raise InputError(
                f"{name} has no output '{missing[0]}'", hint=f"its outputs are {', '.join(found)}"
            )
        return {output: found[output] for output in wanted}

    def _fits(self, member: _Member, given: Mapping[str, Any]) -> bool:
        first, signature = self._first, member.signature
        if signature is first or first is None or signature.form == first.form:
            return True
        try:
            signature.check(_renamed(given, member))
        except InputError:
            return False
        return True

    def _check_outputs(self, wanted: Sequence[str]) -> None:
        known = [spec.name for spec in self.outputs]
        for name in wanted:
            if name not in known:
                raise unknown_output(name, known)


def _renamed(given: Mapping[str, Any], member: _Member) -> Mapping[str, Any]:
    """Tensors by the names of a model."""
    names = member.inputs
    if names is None:
        return given
    found = {names.get(name, name): value for name, value in given.items()}
    return found if len(found) == len(given) else given  # which is refused


@dataclass(slots=True, eq=False)
class Inputs:
    """What a request brought. feeds : by form, those that were checked. unfit : names of models
    that take no such tensors. size : bytes of a sample, 0 where all have the same."""

    given: Given
    samples: int
    feeds: dict[str, Feed]
    unfit: frozenset[str]
    size: float = 0.0


def alike(first: Inputs, requests: Sequence[dict[str, Any]]) -> list[Inputs]:
    """What requests bring whose tensors have the names, types and shapes of another one's, and are
    no texts."""
    form = next(iter(first.feeds), None)  # as the deployment has it
    return [
        Inputs(
            given, first.samples, {} if form is None else {form: Feed(given, first.samples)},
            first.unfit, first.size,
        )
        for given in requests
    ]  # fmt: skip


def all_of(brought: Sequence[Inputs]) -> Inputs:
    """What several requests brought, as far as a decision about all of them is concerned."""
    unfit, samples, size = _NONE, 0, 0.0
    for inputs in brought:
        samples += inputs.samples
        if inputs.unfit:
            unfit |= inputs.unfit
        if inputs.size > size:
            size = inputs.size
    return Inputs({}, samples, {}, unfit, size)  # which is not fed
