"""The inputs and outputs that the models of a deployment share, whatever each one calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sommelier.errors import InputError
from sommelier.records import TensorSpec
from sommelier.runtime.feeds import Feed, InputCheck
from sommelier.runtime.predictor import Predictor
from sommelier.runtime.wishes import count_of_items
from sommelier.storage.naming import nearest

Array = NDArray[Any]
Given = Mapping[str, Any] | Array | Sequence[bytes]
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What one model takes and gives. form : equal for models that take the same tensors.
    together : samples of several requests that are better answered in one run; 1: none are."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    check: InputCheck
    form: str
    together: int

    @classmethod
    def of(cls, predictor: Predictor) -> Signature:
        form = f"{predictor.inputs} {predictor.settings.batch}"
        check = InputCheck(predictor.model.name, predictor.inputs, predictor.settings.batch)
        together = predictor.most_together
        return cls(predictor.inputs, predictor.outputs, check, form, together)


class Interface:
    """What a deployment takes and gives: as the first of its models that was ever loaded.

    A request that names tensors is checked once, when it comes, and each model that takes the same
    tensors is fed without another look. Inputs and outputs are renamed where a model has as many of
    other names. Raw items have no names: each model prepares them as it declares.
    """

    def __init__(self, models: Sequence[str]) -> None:
        """models : names, the one whose names count first."""
        self.together = 1  # what Signature.together is for all models that were loaded
        self._order = tuple(models)
        self._known: dict[str, Signature] = {}
        self._first: Signature | None = None

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
            known = {**self._known, name: Signature.of(predictor)}
            self._first = next(known[model] for model in self._order if model in known)
            self.together = min(signature.together for signature in known.values())
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
        unfit = _NONE
        if len(self._known) > 1:
            others = self._known.items()
            unfit = frozenset(name for name, other in others if not self._fits(other, given))
        return Inputs(given, feed.samples, {first.form: feed}, unfit)

    def feed(self, inputs: Inputs, name: str, predictor: Predictor) -> Feed:
        """The inputs as a model takes them. Raises InputError."""
        given = inputs.given
        if type(given) is not dict and not isinstance(given, Mapping):
            return predictor.feed_items(given)
        if name not in self._known:
            self.learn(name, predictor)
        signature = self._known[name]
        found = inputs.feeds.get(signature.form)
        if found is None:
            found = signature.check(self._renamed(given, signature))
            inputs.feeds[signature.form] = found
        return found

    def outputs_of(
        self, name: str, found: Mapping[str, Array], wanted: Sequence[str] | None
    ) -> Mapping[str, Array]:
        """A model's outputs by the deployment's names. wanted : only these; None: all."""
        signature, first = self._known[name], self._first
        assert first is not None, "a model that ran was loaded"
        if signature is not first and len(signature.outputs) == len(first.outputs):
            names = {
                own.name: spec.name
                for own, spec in zip(signature.outputs, first.outputs, strict=True)
            }
            found = {names[own]: value for own, value in found.items()}
        if wanted is None:
            return found
        missing = [output for output in wanted if output not in found]
        if missing:
            raise InputError(
                f"{name} has no output '{missing[0]}'", hint=f"its outputs are {', '.join(found)}"
            )
        return {output: found[output] for output in wanted}

    def _fits(self, signature: Signature, given: Mapping[str, Any]) -> bool:
        first = self._first
        if signature is first or first is None or signature.form == first.form:
            return True
        try:
            signature.check(self._renamed(given, signature))
        except InputError:
            return False
        return True

    def _renamed(self, given: Mapping[str, Any], signature: Signature) -> Mapping[str, Any]:
        first = self._first
        if first is None or signature is first or len(signature.inputs) != len(first.inputs):
            return given
        names = {
            spec.name: own.name for spec, own in zip(first.inputs, signature.inputs, strict=True)
        }
        return {names.get(name, name): value for name, value in given.items()}

    def _check_outputs(self, wanted: Sequence[str]) -> None:
        known = [spec.name for spec in self.outputs]
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"there is no output '{name}'",
                    hint=f"there is {', '.join(known)}",
                    suggestions=tuple(nearest(name, known)),
                )


@dataclass(slots=True, eq=False)
class Inputs:
    """What a request brought. feeds : by form, those that were checked. unfit : names of models
    that take no such tensors."""

    given: Given
    samples: int
    feeds: dict[str, Feed]
    unfit: frozenset[str]
