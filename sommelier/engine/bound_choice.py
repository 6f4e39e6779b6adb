"""Which statement CORR makes: about what, by which method, corrected how for the number of models.

generalization = off observes and bounds nothing; on bounds what holds for inputs like the probes;
custom does so for named datasets, and with several of them the statement is about a new dataset.
Choices that contradict each other are refused here, in words, and not settled silently.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sommelier.engine.bound_methods import METHODS
from sommelier.engine.names import nearest
from sommelier.engine.options import BOUNDS
from sommelier.engine.plan import CorrBound, LogicalPlan, QueryOptions
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sommelier.engine.scope import Scope

ACROSS = ("minimum", "prediction")
STEPWISE = ("fwer", "fdr", "fdr_by")


@dataclass(frozen=True, slots=True)
class BoundChoice:
    """method : a name of METHODS, or of ACROSS where `across` holds the names of several datasets.

    correction : none, bonferroni, or one of STEPWISE, or split.
    """

    method: str
    correction: str
    across: tuple[str, ...] = ()


def with_datasets(options: QueryOptions, spans: Mapping[str, Span | None]) -> QueryOptions:
    """The options with what `datasets` means said: custom, and a single one is the dataset.

    Raises BinderError where they contradict each other.
    """
    names = tuple(dict.fromkeys(options.datasets))
    span = spans.get("datasets") or spans.get("generalization")
    if names and "generalization" in options.stated and options.generalization != "custom":
        raise BinderError(
            f"generalization = {options.generalization} takes no datasets",
            span=span,
            hint="generalization = custom makes the statement about the datasets named",
        )
    if names and "dataset" in options.stated:
        raise BinderError("name the datasets once: dataset or datasets", span=span)
    if not names and options.generalization == "custom" and "dataset" not in options.stated:
        raise BinderError(
            "generalization = custom needs the datasets that it is about",
            span=span,
            hint="USING generalization = custom, datasets = ['imagenet', 'sketches']",
        )
    if not names:
        return options
    if len(names) > 1:
        return replace(options, generalization="custom", datasets=names, dataset=None)
    stated = options.stated | {"dataset"}
    return replace(options, generalization="custom", dataset=names[0], datasets=(), stated=stated)


def bind_choice(corr: nodes.Corr, bounds: tuple[CorrBound, ...], scope: Scope) -> BoundChoice:
    """What CORR and USING say together; the clause wins. Raises BinderError for contradictions."""
    options = scope.options
    asked, span = _asked(corr, scope)
    correction = "bonferroni" if options.correction == "auto" else options.correction
    if options.generalization == "off":
        _check_off(asked, span)
        choice = BoundChoice("observed", "none")
    elif options.datasets:
        choice = _about_new_datasets(asked, correction, span, scope)
    elif asked in ACROSS:
        raise BinderError(
            f"bound = {asked} is a statement about a new dataset, made from several",
            span=span,
            hint="name them: USING datasets = ['imagenet', 'sketches']",
        )
    elif asked == "spectral":
        choice = BoundChoice("spectral", "none")
    else:
        choice = BoundChoice(METHODS["cp" if asked == "auto" else asked].name, correction)
    _check_correction(choice, bounds, scope)
    _check_mode(choice, scope)
    return choice


def _asked(corr: nodes.Corr, scope: Scope) -> tuple[str, Span | None]:
    """(the method asked for, where it stands). A setting does not reach a statement of new data."""
    if corr.bound is not None:
        if corr.bound not in BOUNDS:
            raise BinderError(
                f"no bound is called '{corr.bound}'",
                span=corr.span,
                expected=BOUNDS,
                suggestions=nearest(corr.bound, BOUNDS),
            )
        return corr.bound, corr.span
    if "bound" in scope.options.stated:
        return scope.options.bound, scope.spans.get("bound")
    settled = scope.options.datasets or scope.options.generalization == "off"
    return ("auto" if settled else scope.options.bound), None


def _check_off(asked: str, span: Span | None) -> None:
    if asked != "auto":
        raise BinderError(
            f"generalization = off observes and makes no bound, {asked} or other", span=span
        )


def _about_new_datasets(
    asked: str, correction: str, span: Span | None, scope: Scope
) -> BoundChoice:
    """auto is the minimum, which is proved; the t-prediction, an estimate, has to be asked for."""
    if asked not in ("auto", *ACROSS):
        raise BinderError(
            f"{asked} bounds the agreement on inputs like the probes, but a new dataset is asked "
            "about",
            span=span,
            expected=("auto", *ACROSS),
        )
    if correction not in ("none", "bonferroni"):
        raise BinderError(
            f"correction {correction} works with bounds from probes, not with several datasets",
            span=scope.spans.get("correction"),
            expected=("auto", "none", "bonferroni"),
        )
    return BoundChoice("minimum" if asked == "auto" else asked, correction, scope.options.datasets)


def _check_correction(choice: BoundChoice, bounds: tuple[CorrBound, ...], scope: Scope) -> None:
    span = scope.spans.get("correction")
    if choice.correction in STEPWISE:
        if not METHODS[choice.method].nested:
            raise BinderError(
                f"correction {choice.correction} works with bounds that only fall with the risk, "
                f"and what {choice.method} stakes depends on it",
                span=span,
                hint="use bound = cp, or correction = bonferroni",
            )
        if len(bounds) > 1 or any(b.operator not in (">", ">=") for b in bounds):
            raise BinderError(
                f"correction {choice.correction} decides one threshold, as in CORR ref 95%",
                span=span,
            )
        if bounds and bounds[0].confidence is None:
            raise BinderError(
                f"AGREEMENT without CONFIDENCE is observed, correction {choice.correction} has "
                "nothing to decide",
                span=span,
            )


def with_winners(plan: LogicalPlan, scope: Scope) -> LogicalPlan:
    """The plan with the number of winners that correction split certifies.

    Raises BinderError where half of the probes cannot choose them: they have to be the most
    similar, and of one reference.
    """
    corr, pick = plan.corr, plan.pick
    if corr is None or corr.correction != "split":
        return plan
    if pick is not None:
        winners = pick.top if pick.label == "MOST SIMILAR" else None
    else:
        winners = None if plan.limit is None or plan.order else plan.offset + plan.limit
    if len(corr.references) != 1 or winners is None:
        raise BinderError(
            "correction split certifies the models most similar to one reference",
            span=scope.spans.get("correction"),
            hint="add PICK MOST SIMILAR TOP 3, or LIMIT 3 without ORDER BY",
        )
    return replace(plan, corr=replace(corr, winners=winners))


def _check_mode(choice: BoundChoice, scope: Scope) -> None:
    usual = choice.method == "cp" and choice.correction in ("none", "bonferroni")
    if scope.options.mode != "sketch" and not usual:
        what = choice.method if choice.method != "cp" else f"correction {choice.correction}"
        raise BinderError(
            f"mode '{scope.options.mode}' knows bounds by cp only, not {what}",
            span=scope.spans.get("mode"),
            hint="leave out mode, or SET mode = 'sketch'",
        )
