"""May two models stand in for each other as far as types go? Nothing is run (algorithms.md A.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from sommelier.analysis.labels import map_labels
from sommelier.analysis.model_inputs import is_auxiliary
from sommelier.analysis.output_kinds import class_count
from sommelier.analysis.quality.decoders import known_decoder
from sommelier.analysis.quality.input_types import check_input
from sommelier.analysis.quality.registry import CLASS_KINDS, VECTOR_KINDS
from sommelier.errors import AnalysisError
from sommelier.records import LabelSpace, ModelRecord, OutputKind, Preprocessing, TensorSpec


class Fit(Enum):
    """The verdict of a type check."""

    COMPATIBLE = "compatible"
    ADAPTABLE = "adaptable"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True, slots=True)
class Adapter:
    """What has to be done between the models. step : cast, transpose, preprocessing, labels,
    classes or decode; where : the input or output; detail : in words."""

    step: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.step} {self.where}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Interface:
    """What decides whether two models can be compared: types, label names, preparation.

    kind_inferred : nobody declared the output kind. tokenizer : fingerprint of vocabulary, merges
    and normaliser where the input is token ids; None where unknown.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_kind: OutputKind
    kind_inferred: bool = True
    label_space: LabelSpace | None = None
    preprocessing: Preprocessing | None = None
    tokenizer: str | None = None

    @classmethod
    def of_record(cls, record: ModelRecord, label_space: LabelSpace | None = None) -> Interface:
        """The interface of a model in the catalog; label_space : the one its record names."""
        return cls(
            record.inputs,
            record.outputs,
            record.output_kind,
            record.output_kind_inferred,
            label_space,
            record.preprocessing,
        )


@dataclass(frozen=True, slots=True)
class Compatibility:
    """The verdict, what has to be adapted, why not, and what could not be verified."""

    fit: Fit
    adapters: tuple[Adapter, ...] = ()
    reason: str | None = None
    notes: tuple[str, ...] = ()
    hint: str | None = None

    def __str__(self) -> str:
        if self.fit is Fit.INCOMPATIBLE:
            return f"incompatible: {self.reason}"
        return "; ".join([self.fit.value, *map(str, self.adapters)])


class _Found:
    """Adapters and notes met on the way to a verdict."""

    def __init__(self) -> None:
        self.adapters: list[Adapter] = []
        self.notes: list[str] = []


def check_interface(
    reference: Interface,
    candidate: Interface,
    *,
    label_map: Mapping[str, str] | None = None,
    least_coverage: float = 0.0,
    inputs_given: bool = False,
) -> Compatibility:
    """Whether the candidate can be put where the reference is, and with which adapters.

    label_map : names of the reference's classes to the candidate's. least_coverage : share of the
    larger label list that must have a partner (1.0 asks for equal lists); a smaller share than all
    is ADAPTABLE and its coverage is stated. inputs_given : the caller has inputs for each model, so
    only the outputs are checked. Source: algorithms.md A.1 steps 1-4.
    """
    found = _Found()
    try:
        if not inputs_given:
            _check_inputs(reference, candidate, found)
        _check_outputs(reference, candidate, found)
        _check_labels(reference, candidate, found, label_map or {}, least_coverage)
    except AnalysisError as error:
        return Compatibility(Fit.INCOMPATIBLE, (), error.message, tuple(found.notes), error.hint)
    fit = Fit.ADAPTABLE if found.adapters else Fit.COMPATIBLE
    return Compatibility(fit, tuple(found.adapters), None, tuple(found.notes))


def _check_inputs(reference: Interface, candidate: Interface, found: _Found) -> None:
    for one, other in _matched_inputs(reference.inputs, candidate.inputs):
        sides = ((one, reference.preprocessing), (other, candidate.preprocessing))
        for step, detail in check_input(*sides, found.notes):
            found.adapters.append(Adapter(step, one.name, detail))
        if one.dtype.startswith("int") and len(one.shape or ()) == 2:
            _check_tokenizers(reference, candidate, found)
    prepared = [side.preprocessing for side in (reference, candidate)]
    if any(steps and steps.assumed and steps.steps for steps in prepared):
        found.notes.append("preprocessing was guessed from shapes")


def _check_tokenizers(reference: Interface, candidate: Interface, found: _Found) -> None:
    if all(p is not None and p.steps for p in (reference.preprocessing, candidate.preprocessing)):
        return  # the raw items were compared
    if reference.tokenizer is None or candidate.tokenizer is None:
        found.notes.append("integer inputs are taken to be made in the same way (unverified)")
    elif reference.tokenizer != candidate.tokenizer:
        raise AnalysisError("the models read token ids of different tokenizers")


def _matched_inputs(
    reference: Sequence[TensorSpec], candidate: Sequence[TensorSpec]
) -> list[tuple[TensorSpec, TensorSpec]]:
    """Pairs of inputs that carry samples: by name where all names are equal, else by position."""
    ours, theirs = ([s for s in side if not is_auxiliary(s)] for side in (reference, candidate))
    if len(ours) != len(theirs):
        raise AnalysisError(
            f"{len(ours)} inputs ({_names(ours)}) cannot be matched with {len(theirs)} "
            f"({_names(theirs)})"
        )
    by_name = {spec.name: spec for spec in theirs}
    if all(spec.name in by_name for spec in ours):
        return [(spec, by_name[spec.name]) for spec in ours]
    return list(zip(ours, theirs, strict=True))


def _check_outputs(reference: Interface, candidate: Interface, found: _Found) -> None:
    one, other = reference.output_kind, candidate.output_kind
    if reference.kind_inferred or candidate.kind_inferred:
        found.notes.append("the output kind was inferred from the graph")
    if one in CLASS_KINDS and other in CLASS_KINDS:
        if one is not other:
            found.adapters.append(Adapter("classes", "output", "scores are reduced to class ids"))
        return
    if one in VECTOR_KINDS and other in VECTOR_KINDS:
        _same_widths(reference, candidate)
        return
    if one is not other:
        raise AnalysisError(
            f"{one.value} cannot be compared with {other.value}",
            hint="declare the output kind of both, if their graphs were misread",
        )
    if one is OutputKind.DETECTION:
        _check_detectors(reference, candidate, found)


def _check_detectors(reference: Interface, candidate: Interface, found: _Found) -> None:
    decoders = [known_decoder(side.outputs, side.inputs) for side in (reference, candidate)]
    if all(decoders):
        names = " and ".join(dict.fromkeys(d.name for d in decoders if d))
        found.adapters.append(Adapter("decode", "outputs", f"boxes as {names}"))
        return
    try:
        _same_widths(reference, candidate)
    except AnalysisError as error:
        raise AnalysisError(
            f"no decoder is known for both detectors, and {error.message}"
        ) from error
    found.notes.append("no decoder is known: raw outputs are compared as numbers, not boxes")


def _same_widths(reference: Interface, candidate: Interface) -> None:
    """Equal numbers of outputs, and equal fixed sizes of each but the batch axis."""
    ours, theirs = reference.outputs, candidate.outputs
    if len(ours) != len(theirs):
        raise AnalysisError(
            f"{len(ours)} outputs ({_names(ours)}) cannot be matched with {len(theirs)} "
            f"({_names(theirs)})"
        )
    for one, other in paired_outputs(ours, theirs):
        a, b = (one.shape or ())[1:], (other.shape or ())[1:]
        fixed = all(isinstance(side, int) for side in (*a, *b))
        if fixed and a != b and one.shape is not None and other.shape is not None:
            raise AnalysisError(f"outputs {one} and {other} cannot be compared")


def paired_outputs(
    reference: Sequence[TensorSpec], candidate: Sequence[TensorSpec]
) -> list[tuple[TensorSpec, TensorSpec]]:
    """Outputs of the two models that go together: by name where all names are equal, else by
    position."""
    by_name = {spec.name: spec for spec in candidate}
    if all(spec.name in by_name for spec in reference):
        return [(spec, by_name[spec.name]) for spec in reference]
    return list(zip(reference, candidate, strict=False))


def _check_labels(
    reference: Interface,
    candidate: Interface,
    found: _Found,
    label_map: Mapping[str, str],
    least_coverage: float,
) -> None:
    if reference.output_kind not in CLASS_KINDS:
        return
    counts = [class_count(side.outputs, side.output_kind) for side in (reference, candidate)]
    if None in counts and None in (reference.label_space, candidate.label_space):
        found.notes.append("labels are unverified: classes are matched by their numbers")
        return
    mapped = map_labels(
        reference.label_space,
        candidate.label_space,
        classes=counts[0],
        target_classes=counts[1],
        explicit=label_map,
    )
    if mapped.kind == "positional":
        found.notes.append("labels are unverified: classes are matched by their numbers")
        return
    partners = int((mapped.targets >= 0).sum())
    size = max(len(side.label_space.labels) for side in (reference, candidate) if side.label_space)
    coverage = partners / size
    if coverage < least_coverage:
        raise AnalysisError(f"only {partners} of {size} label names have a partner")
    if coverage < 1:
        detail = f"{partners} of {size} names have a partner (coverage {coverage:.1%})"
        found.adapters.append(Adapter("labels", "output", detail))
    elif list(mapped.targets) != list(range(size)):
        found.adapters.append(Adapter("labels", "output", "the same names in another order"))


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs) or "none"
