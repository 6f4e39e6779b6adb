"""What a sandbox does to a model before it may be served: run it, save its session, compare both.

A file that crashes or hangs ONNX Runtime does so here, in a process with limits (analysis.sandbox).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import latency, signature
from sommelier.analysis.latency import RunSettings, give_back_memory
from sommelier.analysis.synthetic_inputs import synthetic_inputs
from sommelier.errors import AnalysisError, first_line
from sommelier.runtime import batching, memory
from sommelier.runtime.alignment import align
from sommelier.runtime.memory import SessionMemory
from sommelier.runtime.sessions import SavedAs, SessionSettings, open_session
from sommelier.storage.artifacts import fingerprint
from sommelier.storage.external_data import external_files

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = NDArray[Any]
Feed = Mapping[str, Array]

RECIPES = ("prepacked", "external")  # the best first
QUICK_MS = 0.1  # below this, a second thread costs more than it brings (runtime.md 3)
TIMING = RunSettings(runs=20, warmup=2, budget_s=1.0)
ROOM = 3  # times the model's size: graph and weights are written twice, prepacked ones are larger


@dataclass(frozen=True, slots=True)
class PreparationRequest:
    """id : the content fingerprint the files must have. folder : where to write; None: nowhere.

    recipes : those to try, of RECIPES; without any the model is loaded plainly.
    """

    source: Path
    id: str
    folder: Path | None
    settings: SessionSettings
    recipes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a model is loaded from now on.

    recipe : 'prepacked' (optimised, weights mapped as the kernels want them), 'external'
    (optimised, weights mapped, packed when it is loaded) or 'plain' (the model's own file).
    file : of the saved session, in the request's folder; None for 'plain'. reason : why not
    'prepacked'. lasting : False where the reason may be gone next time. threads, batch : those to
    use. run_ms : median of one sample on one thread; None where no input could be made up.
    together : of `batching.cost_together`, with the largest batch; None also of slow models, and
    of those whose graph is not proved to keep samples apart (analysis/samples_apart.py).
    """

    recipe: str
    file: str | None
    reason: str | None
    lasting: bool
    threads: int
    batch: int
    run_ms: float | None
    memory: SessionMemory
    together: float | None = None


@dataclass(frozen=True, slots=True)
class _Reference:
    """What the model's own file answers. runs : inputs with answers, of one sample and of the
    largest batch, for which kernels differ; () where no input could be made up, and `reason` why.
    """

    settings: SessionSettings
    runs: tuple[tuple[Feed, tuple[Array, ...]], ...]
    run_ms: float | None
    reason: str | None
    together: float | None = None


def prepare(request: PreparationRequest) -> Preparation:
    """How to load a model, having loaded and run it; the saved session lies in the folder.

    A saved session counts only if it answers bit for bit what the model's own file does. Raises
    AnalysisError for a model that does not load or run, or whose files are not what they were;
    RejectedModelError for files that are no model.
    """
    files = [request.source, *external_files(request.source)]
    if fingerprint(files) != request.id:
        raise AnalysisError(
            f"the model file '{request.source}' has changed since it was imported",
            hint="import it again; it will be a new version",
        )
    size = sum(file.stat().st_size for file in files)
    reference = _reference(request)
    barrier, lasting = _barrier(request, reference, size)
    reasons = [barrier] if barrier else []
    if request.folder is not None and barrier is None:
        for recipe, saved in _saved(request, request.folder, reference.settings, reasons):
            fault = _fault(saved.path, reference)
            if fault is None:
                found = _result(recipe, saved.path, reference, reasons, size)
                _remove_others(request.folder, saved)
                return found
            reasons.append(f"{recipe}: {fault}")
    if request.folder is not None:
        _remove_others(request.folder, None)
    plain = _result("plain", request.source, reference, reasons, size)
    return replace(plain, file=None, lasting=lasting)


def warm_up_inputs(session: InferenceSession, batch: int, *, seed: int = 0) -> dict[str, Array]:
    """Made-up inputs of so many samples. Raises AnalysisError where nobody can make them up."""
    specs = latency.session_inputs(session)
    return synthetic_inputs(specs, signature.bind(specs, batch=batch), seed=seed)


# ---- inside


def _reference(request: PreparationRequest) -> _Reference:
    """The answers of the model's own file on one thread, where speed shows what threads bring."""
    settings = request.settings
    session = open_session(request.source, replace(settings, threads=1))
    try:
        feed = warm_up_inputs(session, 1)
    except AnalysisError as error:
        return _Reference(settings, (), None, f"it was not run: {error.message}")
    run_ms = float(np.median(latency.run_times_ms(session, feed, TIMING)))
    if run_ms < QUICK_MS:
        settings = replace(settings, threads=1)
    runs, together = [(feed, _answers(session, feed))], None
    if settings.batch > 1:
        try:
            feed = warm_up_inputs(session, settings.batch)
            runs.append((feed, _answers(session, feed)))
            if run_ms <= batching.LONGEST_MS and _keeps_samples_apart(request.source):
                together = batching.cost_together(session, feed)
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            _reraise_memory(error)
            settings = replace(settings, batch=1)
    return _Reference(settings, tuple(runs), run_ms, None, together)


def _keeps_samples_apart(source: Path) -> bool:
    """Whether it is proved that what one client sends has no influence on another's answer."""
    from sommelier.analysis.graph import read_model
    from sommelier.analysis.samples_apart import why_samples_meet

    return why_samples_meet(read_model(source)) is None


def _answers(session: InferenceSession, feed: Feed) -> tuple[Array, ...]:
    return tuple(np.array(answer) for answer in session.run(None, dict(feed)))


def _reraise_memory(error: Exception) -> None:
    if "allocate memory" in str(error).lower() or "bad_alloc" in str(error):
        raise MemoryError(str(error)) from error


def _barrier(
    request: PreparationRequest, reference: _Reference, size: int
) -> tuple[str | None, bool]:
    """(why no session is saved at all, whether that will be so next time)."""
    if not request.settings.on_cpu:
        return f"sessions on {request.settings.device} are not cached", True
    if reference.reason is not None:
        return reference.reason, True
    if request.folder is not None and shutil.disk_usage(request.folder).free < ROOM * size:
        return "no room on the disk for a cached session", False
    return None, True


def _saved(
    request: PreparationRequest, folder: Path, settings: SessionSettings, reasons: list[str]
) -> Iterator[tuple[str, SavedAs]]:
    """(recipe, what was saved by it), the best first; why one was not saved goes to `reasons`.

    Prepacked weights are saved only from external ones, so the other recipe comes first.
    """
    if not request.recipes:
        return
    external = SavedAs(folder / "external.onnx", prepacked=False)
    prepacked = SavedAs(folder / "prepacked.onnx", prepacked=True)
    try:
        open_session(request.source, settings, save=external)
        align(external)
    except AnalysisError as error:
        reasons.append(f"external: {error.message}")
        return
    if "prepacked" in request.recipes:
        try:
            open_session(external.path, settings, optimised=True, save=prepacked)
            align(prepacked)
        except AnalysisError as error:
            reasons.append(f"prepacked: {error.message}")
        else:
            yield "prepacked", prepacked
    yield "external", external


def _fault(path: Path, reference: _Reference) -> str | None:
    """Why a saved session is not as good as the model's own file; None if it is."""
    try:
        session = open_session(path, reference.settings, optimised=True)
        found = [_answers(session, feed) for feed, _ in reference.runs]
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        _reraise_memory(error)
        return first_line(error)
    for answers, (_, wanted) in zip(found, reference.runs, strict=True):
        if not all(_same(a, b) for a, b in zip(answers, wanted, strict=True)):
            return "it does not answer what the model's own file does"
    return None


def _same(found: Array, wanted: Array) -> bool:
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if found.dtype == object:
        return bool(np.array_equal(found, wanted))
    return found.tobytes() == wanted.tobytes()  # NaN too


def _result(
    recipe: str, path: Path, reference: _Reference, reasons: list[str], size: int
) -> Preparation:
    settings = reference.settings
    return Preparation(
        recipe=recipe,
        file=path.name,
        reason="; ".join(reasons) or None,
        lasting=True,
        threads=settings.threads,
        batch=settings.batch,
        run_ms=reference.run_ms,
        memory=_measured(path, reference, size, optimised=recipe != "plain"),
        together=reference.together,
    )


def _measured(path: Path, reference: _Reference, size: int, *, optimised: bool) -> SessionMemory:
    """What loading and running adds to this process, which did both before: one-time costs of the
    library are paid already."""
    settings = reference.settings
    give_back_memory()
    before, device_before = memory.private_bytes(), _device_bytes(settings)
    session = open_session(path, settings, optimised=optimised)
    give_back_memory()
    loaded = max(0, memory.private_bytes() - before)
    run: int | None = None
    if reference.runs:
        session.run(None, dict(reference.runs[-1][0]))
        give_back_memory()
        run = max(0, memory.private_bytes() - before - loaded)
    on_device = 0
    if not settings.on_cpu:
        after = _device_bytes(settings)
        known = after is not None and device_before is not None
        on_device = max(0, (after or 0) - (device_before or 0)) if known else size
    mapped = memory.mapped_bytes(SavedAs(path, prepacked=True).weights) if optimised else 0
    return SessionMemory(loaded, run, mapped, on_device, memory.method())


def _device_bytes(settings: SessionSettings) -> int | None:
    return None if settings.on_cpu else memory.device_bytes(settings.device)


def _remove_others(folder: Path, kept: SavedAs | None) -> None:
    names = set() if kept is None else {kept.path.name, kept.weights.name}
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()
