"""The links of one target, fitted and measured in a sandbox: answers go in, files and figures out.

Nothing here talks to a database; link_jobs.py plans the work and keeps what it finds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.analysis.links.formats import LinkAnswers
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from sommelier.analysis.links.fitting import FittedLink, LinkOptions

TIMED_RUNS = 30  # of one answer through a link; some 10 microseconds each


@dataclass(frozen=True, slots=True)
class LinkWork:
    """What the sandbox needs: the answers of every model on the same samples, sources by model id.

    ensemble : the sources are meant together, as one link.
    """

    target_id: str
    sources: Mapping[str, LinkAnswers]
    target: LinkAnswers
    options: LinkOptions
    ensemble: bool = False


@dataclass(frozen=True, slots=True)
class WorkedLink:
    """A fitted link with what it costs.

    method : 'linear', 'network', or how an ensemble weighs its sources. costs : params, flops,
    memory, size in base units and latency in ms of one answer; what could not be measured is not
    there.
    """

    source_ids: tuple[str, ...]
    fitted: FittedLink
    method: str | None
    costs: Mapping[str, float]


def fit_target(work: LinkWork) -> tuple[WorkedLink, ...]:
    """Every link into the target, one a source; of an ensemble all together comes last."""
    from sommelier.analysis.links.fitting import fit_links

    fitted = fit_links(work.sources, work.target, work.options)
    singles = {
        name: WorkedLink((name,), link, link.method, _costs(link)) for name, link in fitted.items()
    }
    if not work.ensemble:
        return tuple(singles.values())
    able = {name: link for name, link in fitted.items() if link.onnx is not None}
    if len(able) == 1:  # the others cannot be linked: it stands for all
        singles |= {name: singles.pop(name) for name in able}
        return tuple(singles.values())
    if not able:
        return (*singles.values(), WorkedLink(tuple(fitted), next(iter(fitted.values())), None, {}))
    return (*singles.values(), _together(work, able))


@contextmanager
def as_file(onnx: bytes) -> Iterator[Path]:
    """A link's network as a file, until it is not needed any more."""
    with tempfile.TemporaryDirectory(prefix="sommelier-link-") as folder:
        path = Path(folder) / "link.onnx"
        path.write_bytes(onnx)
        yield path


def _together(work: LinkWork, parts: Mapping[str, FittedLink]) -> WorkedLink:
    """The ensemble of links, as one ONNX file that takes every source."""
    from sommelier.analysis.links.ensemble import LinkEnsemble
    from sommelier.analysis.links.ensemble_export import ensemble_onnx
    from sommelier.analysis.links.judging import Study, exceeds
    from sommelier.analysis.links.scoring import skill

    study = Study.of(work.target, work.options)
    predicted = {name: link.predicted for name, link in parts.items() if link.predicted is not None}
    ensemble = LinkEnsemble(work.target, predicted, study.rows, confidence=work.options.confidence)
    head, found = ensemble.head(parts), ensemble.score(parts)
    heads = len(parts) + 2  # each link alone, all together, the constant answer
    linked = bool(head.sources) and exceeds(found, study.constant, candidates=heads)
    networks = {name: link.onnx for name, link in parts.items() if link.onnx is not None}
    link = replace(
        next(iter(parts.values())),
        state="linked" if linked else "useless",
        reason="" if linked else "no better, beyond chance, than one answer for all",
        onnx=ensemble_onnx(networks, head),
        score=found,
        skill=skill(found.performance, study.constant.performance),
        predicted=head(predicted, count=len(work.target)),
        screen=None,
        parameters=sum(link.parameters for link in parts.values()),
        seconds=sum(link.seconds for link in parts.values()),
    )
    return WorkedLink(tuple(parts), link, head.kind, _costs(link))


def _costs(link: FittedLink) -> dict[str, float]:
    """Static costs of the link's network and the median time of one answer."""
    if link.onnx is None:
        return {}
    with as_file(link.onnx) as path:
        return {**_told(lambda: _static(path)), **_told(lambda: _timed(path))}


def _told(measured: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Unknown is not zero: what cannot be measured is left out."""
    try:
        return measured()
    except AnalysisError:
        return {}


def _static(path: Path) -> dict[str, float]:
    from sommelier.analysis.aspects import static_profile

    found, _ = static_profile(path, "", 1, ())
    return {m.metric: m.value for m in found if m.metric in ("params", "flops", "memory", "size")}


def _timed(path: Path) -> dict[str, float]:
    from sommelier.analysis.latency import measure

    found = measure(path, runs=TIMED_RUNS)
    return {m.metric: m.value for m in found if m.metric == "latency" and m.percentile == 50}
