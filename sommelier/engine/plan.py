"""The plan of a query as frozen values: names are ids and columns, every number is in base units.

The planner makes it, rules rewrite it, the executor runs it, explain prints it. `source` keeps the
words a condition was written with; it never takes part in comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sommelier.grammar import nodes
from sommelier.records import TextPredicate
from sommelier.storage.resource_index import ColumnKey
from sommelier.units import Dimension

# ---- values: numbers per model


@dataclass(frozen=True, slots=True)
class Constant:
    """A number in base units.

    origin : how a bound was written that was made absolute; basis : the reference's own value,
    where the bound is a share of it.
    """

    value: float
    dimension: Dimension = Dimension.NUMBER
    origin: str | None = field(default=None, compare=False)
    basis: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class MetricColumn:
    """A metric in one context."""

    key: ColumnKey
    dimension: Dimension


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """equivalence, agreement, bound, confidence, probes: numbers that CORR answers."""

    name: str
    dimension: Dimension = Dimension.FRACTION


@dataclass(frozen=True, slots=True)
class Similarity:
    """profile_similarity('model'): weighted Jaccard of the resource profiles, 0 to 1."""

    model_id: str
    name: str
    dimension: Dimension = Dimension.FRACTION


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic between two values; division by zero is unknown."""

    operator: str  # + - * /
    left: Value
    right: Value
    dimension: Dimension


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A metadata or answer column of text; it is projected and sorted, never calculated with."""

    name: str
    dimension: None = None


Value = Constant | MetricColumn | AnswerColumn | Similarity | Binary
Shown = Value | TextColumn


# ---- conditions: true, false or unknown per model


@dataclass(frozen=True, slots=True)
class Compare:
    """left operator right; unknown where either side is."""

    operator: str  # = != < <= > >=
    left: Value
    right: Value
    source: nodes.Expression | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TextMatch:
    """A condition on a metadata column, which the catalog answers."""

    predicate: TextPredicate
    source: nodes.Expression | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AnswerMatch:
    """A text answer of CORR (provenance, method, labels, certainty) is one of `options`."""

    name: str
    options: tuple[str, ...]
    source: nodes.Expression | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class IsUnknown:
    """The value is not known; itself never unknown."""

    value: Value
    source: nodes.Expression | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Negated:
    part: Condition


Atom = Compare | TextMatch | AnswerMatch | IsUnknown
Condition = Atom | AllOf | AnyOf | Negated


def conjuncts(condition: Condition | None) -> tuple[Condition, ...]:
    """The conditions that all have to hold."""
    if condition is None:
        return ()
    return condition.parts if isinstance(condition, AllOf) else (condition,)


def all_of(parts: tuple[Condition, ...]) -> Condition | None:
    """One condition for `parts`, flattened; None for no parts."""
    flat = tuple(inner for part in parts for inner in conjuncts(part))
    return None if not flat else flat[0] if len(flat) == 1 else AllOf(flat)


def atoms(condition: Condition | None) -> Iterator[Atom]:
    """Every comparison inside, left to right."""
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.parts:
            yield from atoms(part)
    elif isinstance(condition, Negated):
        yield from atoms(condition.part)
    elif condition is not None:
        yield condition


def leaves(value: Value) -> Iterator[Value]:
    """The columns and constants a value is calculated from."""
    if isinstance(value, Binary):
        yield from leaves(value.left)
        yield from leaves(value.right)
    else:
        yield value


def needs_answers(condition: Condition) -> bool:
    """Whether CORR has to be answered before the condition can be."""
    return any(
        isinstance(atom, AnswerMatch)
        or any(isinstance(leaf, AnswerColumn) for value in operands(atom) for leaf in leaves(value))
        for atom in atoms(condition)
    )


def operands(atom: Atom) -> tuple[Value, ...]:
    """The numbers an atom looks at."""
    if isinstance(atom, Compare):
        return (atom.left, atom.right)
    return (atom.value,) if isinstance(atom, IsUnknown) else ()


# ---- the query


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """USING over SET over the defaults. stated : what USING itself said."""

    dataset: str | None = None
    datasets: tuple[str, ...] = ()  # several: the statement is about a new dataset
    generalization: str = "on"
    bound: str = "auto"
    device: str | None = None
    batch: int | None = None
    confidence: float = 0.95
    correction: str = "auto"  # auto and bonferroni divide alpha by the candidates compared
    certainty: str = "certain"
    include_reference: bool = False
    provenance: str | None = None
    mode: str = "sketch"
    seed: int = 0
    default_tolerance: float | None = None
    stated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model the question is about."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CorrBound:
    """`measure operator threshold`, with within already turned round.

    measure : equivalence or agreement (bound <= x is equivalence >= 1 - x). confidence : of this
    condition; None for a point estimate (AGREEMENT without CONFIDENCE).
    """

    measure: str
    operator: str
    threshold: float
    confidence: float | None
    source: nodes.CorrCondition | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class CorrPlan:
    """Which models answer like the references. quantifier : one, any, all.

    method, correction : how the bounds are made, see bound_choice.py. across : several datasets, as
    (name, probe set), where the statement is about a new one. winners : how many are certified with
    correction split, on the half of the probes that `seed` leaves them.
    """

    references: tuple[ModelReference, ...]
    quantifier: str
    bounds: tuple[CorrBound, ...]
    accuracy: Condition | None
    probe_set_id: str | None
    dataset: str | None
    confidence: float
    method: str
    correction: str
    possible: bool
    include_reference: bool
    mode: str
    default_tolerance: bool = False  # the bound came from SET default_tolerance
    across: tuple[tuple[str, str], ...] = ()
    winners: int | None = None
    seed: int = 0
    spectral: ColumnKey | None = None  # where the generalization bounds of models are

    @property
    def corrected(self) -> bool:
        """Whether the confidence is for all models compared together."""
        return self.correction != "none"


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """Where models come from: kind source, pool (ids), view or query (plan)."""

    kind: str
    name: str | None
    ids: tuple[str, ...] = ()
    plan: LogicalPlan | None = None


@dataclass(frozen=True, slots=True)
class OutputColumn:
    name: str
    value: Shown


@dataclass(frozen=True, slots=True)
class OrderKey:
    """One sort key. nulls_first : where unknown values go."""

    value: Shown
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True, slots=True)
class PickPlan:
    """PICK: the best `top` by `keys`, the Pareto front of `keys`, or `top` at random."""

    kind: str  # best, pareto, random
    keys: tuple[OrderKey, ...]
    top: int | None
    label: str
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalPlan:
    """A bound query. keep : how many rows of the final order are needed; None for all."""

    columns: tuple[OutputColumn, ...]
    distinct: bool = False
    including: tuple[str, ...] = ()  # kinds of proposals that count as models
    sources: tuple[SourcePlan, ...] = ()
    where: Condition | None = None
    on: Condition | None = None
    corr: CorrPlan | None = None
    having: Condition | None = None  # conditions of WHERE that look at CORR's answers
    pick: PickPlan | None = None
    order: tuple[OrderKey, ...] = ()
    limit: int | None = None
    offset: int = 0
    keep: int | None = None
    options: QueryOptions = QueryOptions()
    notes: tuple[str, ...] = ()
