"""All links to one target: screened, fitted, judged on samples nobody has learned from, exported.

Source: algorithms.md E.1; paper 000, "Black-Box Model Linking".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from sommelier.analysis.computing import Cancelled, check_device
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.judging import (
    FittedLink,
    LinkOptions,
    Study,
    Tried,
    architecture_of,
)
from sommelier.analysis.links.linear import fit_linear
from sommelier.analysis.links.screening import Screen
from sommelier.analysis.links.training import stop_if, train_vectors
from sommelier.errors import AnalysisError, MissingDependencyError

__all__ = ["FittedLink", "LinkOptions", "fit_links"]

Progress = Callable[[str, int, int | None, str | None], None]

DEFAULTS = LinkOptions()
logger = logging.getLogger(__name__)


def fit_links(
    sources: Mapping[str, LinkAnswers],
    target: LinkAnswers,
    options: LinkOptions = DEFAULTS,
    *,
    progress: Progress | None = None,
    cancelled: Cancelled = bool,
) -> dict[str, FittedLink]:
    """A link from each source to the target, all answers being to the same samples in one order.

    progress : (phase, done, total, name of a source). Raises AnalysisError where the target's
    answers do not allow any link (too few samples); what is wrong with one source is its state.
    Raises CancelledError soon after `cancelled()` is true.
    """
    _check(sources, target)
    study = Study.of(target, options)
    report = progress or _silent
    found: dict[str, FittedLink] = {}
    able: dict[str, LinkAnswers] = {}
    screens: dict[str, Screen | None] = {}
    for place, (name, source) in enumerate(sources.items()):
        stop_if(cancelled)
        report("screening", place, len(sources), name)
        screens[name], reason = study.screened(source)
        if reason is None:
            able[name] = source
        else:
            found[name] = study.refused(source, reason, screens[name])
    report("training", 0, len(able), None)
    tried = _fit(able, study, cancelled)
    for place, (name, source) in enumerate(able.items()):
        stop_if(cancelled)
        report("judging", place, len(able), name)
        found[name] = study.judged(source, tried[name], screens[name])
    return {name: found[name] for name in sources}


def _fit(
    sources: Mapping[str, LinkAnswers], study: Study, cancelled: Cancelled
) -> dict[str, Tried]:
    tried = {name: Tried() for name in sources}
    kinds = {name: architecture_of(source, study.target) for name, source in sources.items()}
    vectors = {name: sources[name] for name, kind in kinds.items() if kind == "vec-to-vec"}
    sequences = {name: sources[name] for name in sources if name not in vectors}
    if study.options.method != "network":
        for name, source in vectors.items():
            stop_if(cancelled)
            tried[name].links.append(fit_linear(source, study.target, study.rows))
    problem = _no_networks(study.options)
    if problem is None:
        _train(vectors, sequences, study, tried, cancelled)
    for name in sequences if problem else ():
        tried[name].problem = problem
    return tried


def _no_networks(options: LinkOptions) -> str | None:
    """Why no network is trained, None where they are.

    Raises MissingDependencyError where they were asked for and torch is not installed, and
    AnalysisError for a device that is not there.
    """
    if options.method == "linear":
        return "a linear link needs vectors at both ends, not tokens"
    try:
        check_device(options.device)
    except MissingDependencyError as error:
        if options.method == "network":
            raise
        logger.warning("%s: only linear links are fitted (%s)", error.message, error.hint)
        return error.message
    return None


def _train(
    vectors: Mapping[str, LinkAnswers],
    sequences: Mapping[str, LinkAnswers],
    study: Study,
    tried: Mapping[str, Tried],
    cancelled: Cancelled,
) -> None:
    """Adds a network to what was tried of each source."""
    from sommelier.analysis.links.sequence_training import train_sequence

    lesson = study.target, study.rows, study.options.training, cancelled
    for name, link in zip(vectors, train_vectors([*vectors.values()], *lesson), strict=True):
        tried[name].links.append(link)
    for name, source in sequences.items():
        try:
            tried[name].links.append(train_sequence(source, *lesson))
        except AnalysisError as error:
            tried[name].problem = error.message


def _check(sources: Mapping[str, LinkAnswers], target: LinkAnswers) -> None:
    for name, source in sources.items():
        if len(source) != len(target):
            raise AnalysisError(
                f"'{name}' answered {len(source)} samples and the target {len(target)}",
                hint="give answers to the same samples, in the same order",
            )


def _silent(phase: str, done: int, total: int | None, current: str | None) -> None:
    """Tells nobody."""
