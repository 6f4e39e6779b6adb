"""What a pool knows of each model, and what that says about memory; the pool holds the lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from math import inf

from sommelier.deployment_records import DeploymentOptions
from sommelier.errors import MemoryBudgetError
from sommelier.runtime.eviction import Candidate, UseRate, to_evict
from sommelier.runtime.predictor import Predictor
from sommelier.runtime.session_cache import PreparedModel, ServedModel
from sommelier.runtime.sessions import SessionSettings
from sommelier.storage.artifact_cache import Lease, held
from sommelier.units import Dimension, format_value

ID_LETTERS = 8  # of a content's fingerprint, which tell two versions of a model apart
ABSENT, LOADING, READY, UNLOADING, FAILED = "absent", "loading", "ready", "unloading", "failed"


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What a pool may do.

    host_bytes, device_bytes : of all its models together; None: any. servers : how many runs of
    one model there may be at the same time, each with memory of its own. keep_alive_s : an unused
    model is unloaded after so long, where no deployment says otherwise; None: never. settle_s : a
    model that was just loaded is not evicted for so long, or two models that do not fit together
    would evict each other without end. retry_s : a model that could not be loaded is not tried
    again before. loaders : how many models are prepared at the same time.
    """

    host_bytes: int | None = None
    device_bytes: int | None = None
    servers: int = 1
    keep_alive_s: float | None = None
    settle_s: float = 10.0
    retry_s: float = 30.0
    loaders: int = 2


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model of the pool, for people and for metrics.

    state : 'absent', 'loading', 'ready', 'unloading' or 'failed'; reason : why it is not ready, in
    words. how : the recipe by which it is loaded. host_bytes : its own and the pages of its
    weights, which models of equal content share. leases : runs at this moment. idle_s, load_ms :
    None while it is not loaded.
    """

    name: str
    state: str
    reason: str | None
    how: str | None
    host_bytes: int
    device_bytes: int
    leases: int
    pinned: bool
    uses_per_s: float
    idle_s: float | None
    load_ms: float | None


@dataclass(frozen=True, slots=True)
class Claim:
    """Memory a model holds from before it is loaded until after it is gone."""

    private_bytes: int
    device_bytes: int
    shared: str  # key of the file whose pages are shared
    shared_bytes: int


@dataclass(slots=True, eq=False)
class Budget:
    """What the loaded models of one deployment may take together, whoever let them be loaded: a
    model that several deployments have counts for each of them. host_bytes : None for any.
    keep_alive_s : an unused model is of no use to it after so long; None: as the pool's rules say.
    """

    owner: str
    host_bytes: int | None = None
    keep_alive_s: float | None = None

    @classmethod
    def of(cls, owner: str, options: DeploymentOptions) -> Budget:
        """Of a deployment."""
        return cls(owner, options.memory_bytes, options.keep_alive_s)

    def follow(self, options: DeploymentOptions) -> None:
        """Be what other options of the same deployment say."""
        self.host_bytes, self.keep_alive_s = options.memory_bytes, options.keep_alive_s


@dataclass(slots=True, eq=False)
class Entry:
    """One model of a pool, as it is run there. budgets : for which it counts, one for each time it
    is retained. lease : of its file, where that was fetched from a store."""

    model: ServedModel
    settings: SessionSettings
    state: str = ABSENT
    reason: str | None = "it was not asked for yet"
    how: str | None = None
    predictor: Predictor | None = None
    future: Future[None] | None = None
    claim: Claim | None = None
    leases: int = 0
    pinned: bool = False
    retained: int = 0
    budgets: list[Budget] = field(default_factory=list)
    rate: UseRate = field(default_factory=UseRate)
    loaded_s: float = 0.0
    used_s: float = 0.0
    reload_ms: float = 0.0
    error: Exception | None = None
    failed_s: float = 0.0
    lease: Lease | None = field(init=False)

    def __post_init__(self) -> None:
        self.lease = held(self.model.path)

    @property
    def moving(self) -> bool:
        """Whether it is on its way into memory or out of it."""
        return self.future is not None or self.state == UNLOADING

    def loaded(self, predictor: Predictor, now_s: float) -> None:
        """It is ready from now on."""
        self.predictor, self.how = predictor, predictor.prepared.how
        self.reload_ms = predictor.load_ms + (predictor.first_run_ms or 0.0)
        self.loaded_s = self.used_s = now_s
        self.error, self.reason = None, None
        self.state, self.future = READY, None

    def failed(self, error: Exception, now_s: float) -> None:
        """It could not be loaded; one without room may have some at the next request."""
        full = isinstance(error, MemoryBudgetError)
        self.claim = None
        self.error = None if full else error
        self.failed_s = now_s
        self.reason = str(error)
        self.state, self.future = ABSENT if full else FAILED, None


def name_for(model: ServedModel, settings: SessionSettings, known: Mapping[str, Entry]) -> str:
    """The name of a model in the pool: its own, unless another content has that, or the same one
    that is run in another way, as on another device."""
    content, device = f"@{model.id[-ID_LETTERS:]}", f"@{settings.device}"
    namesake = known.get(model.name)
    first = device if namesake is not None and namesake.model.id == model.id else content
    for suffix in ("", first, content + device):
        other = known.get(model.name + suffix)
        if other is None or (other.model.id, other.settings) == (model.id, settings):
            break
    return model.name + suffix


def claim_of(prepared: PreparedModel, servers: int) -> Claim:
    """What a model will take, as it was measured when it was prepared."""
    found = prepared.preparation.memory
    return Claim(found.private_bytes(servers), found.device_bytes, prepared.key, found.file_bytes)


def used(entries: Iterable[Entry], extra: Claim | None = None) -> tuple[int, int]:
    """(host, device) bytes of all claims; shared pages once."""
    claims = [entry.claim for entry in entries if entry.claim is not None]
    claims += [] if extra is None else [extra]
    shared = {claim.shared: claim.shared_bytes for claim in claims}
    private = sum(claim.private_bytes for claim in claims)
    return private + sum(shared.values()), sum(claim.device_bytes for claim in claims)


def shortage(entries: Iterable[Entry], claim: Claim, rules: PoolRules) -> tuple[int, int]:
    """(host, device) bytes by which the budget would be exceeded with one claim more."""
    host, device = used(entries, claim)
    return _excess(host, rules.host_bytes), _excess(device, rules.device_bytes)


def candidates(entries: Sequence[Entry], rules: PoolRules, now_s: float) -> list[Candidate]:
    """The models that may be evicted."""
    may_go = [entry for entry in entries if kept_because(entry, rules, now_s) is None]
    return _priced(may_go, entries, now_s)


def _priced(may_go: Iterable[Entry], entries: Iterable[Entry], now_s: float) -> list[Candidate]:
    """What each of some models would free, and what it costs to miss it."""
    claims = [entry.claim for entry in entries if entry.claim is not None]
    sharing = Counter(claim.shared for claim in claims)
    found = []
    for entry in may_go:
        claim = entry.claim
        if claim is not None:
            host = claim.private_bytes + claim.shared_bytes // sharing[claim.shared]
            uses_per_s = entry.rate.per_s(now_s)
            found.append(
                Candidate(entry.model.name, host, claim.device_bytes, uses_per_s, entry.reload_ms)
            )
    return found


@dataclass(frozen=True, slots=True)
class _Limit:
    """The models that count for one limit of memory. whose : words that say which it is."""

    entries: Sequence[Entry]
    rules: PoolRules
    whose: str = ""


def _limits_of(entry: Entry, entries: Sequence[Entry], rules: PoolRules) -> list[_Limit]:
    """That a model may exceed when it is loaded: the pool's, and what its deployments promise."""
    found = [_Limit(entries, rules)]
    for budget in dict.fromkeys(entry.budgets):
        if budget.host_bytes is not None:
            whose = f" of the {_bytes(budget.host_bytes)} that deployment {budget.owner} may take"
            own = replace(rules, host_bytes=budget.host_bytes, device_bytes=None)
            found.append(_Limit(_counted(entries, budget), own, whose))
    return found


def _counted(entries: Iterable[Entry], budget: Budget) -> list[Entry]:
    return [entry for entry in entries if budget in entry.budgets]


def victim(
    entry: Entry, claim: Claim, entries: Sequence[Entry], rules: PoolRules, now_s: float
) -> Candidate | None:
    """Who goes first to make room for a model; None if there is room.

    Raises MemoryBudgetError where those that may go are not enough for one of the limits.
    """
    first = None
    for limit in _limits_of(entry, entries, rules):
        short = shortage(limit.entries, claim, limit.rules)
        if short == (0, 0):
            continue
        chosen = to_evict(candidates(limit.entries, limit.rules, now_s), *short)
        if not chosen:
            raise _no_room(entry.model.name, claim, limit, now_s)
        first = first or chosen[0]
    return first


def beyond(budget: Budget, entries: Iterable[Entry], now_s: float) -> list[str]:
    """Names of the loaded models that have to go for a budget to be kept, the cheapest to miss;
    those in use as well. None for a budget that is kept."""
    own = _counted(entries, budget)
    over = _excess(used(own)[0], budget.host_bytes)
    loaded = _priced([e for e in own if e.state == READY and not e.pinned], own, now_s)
    chosen = to_evict(loaded, over)
    return [candidate.name for candidate in (loaded if chosen is None else chosen)]


def kept_because(entry: Entry, rules: PoolRules, now_s: float) -> str | None:
    """Why a model may not be evicted; None if it may."""
    if entry.state != READY:
        return entry.state
    if entry.leases:
        return "in use"
    if entry.pinned:
        return "pinned"
    age = now_s - entry.loaded_s
    return f"loaded {age:.3g} s ago" if age < rules.settle_s else None


def keep_alive_s(entry: Entry, rules: PoolRules) -> float:
    """After how long without use a model goes: the longest that any of those who have it asks for;
    inf for never."""
    usual = inf if rules.keep_alive_s is None else rules.keep_alive_s
    asked = [usual if b.keep_alive_s is None else b.keep_alive_s for b in entry.budgets]
    if entry.retained > len(asked) or not asked:  # somebody has it without a word about that
        asked.append(usual)
    return max(asked)


def idle(entries: Iterable[Entry], rules: PoolRules, now_s: float) -> dict[str, float]:
    """Names of the models that nobody used for as long as they are kept, and how long that is."""
    return {
        entry.model.name: kept_s
        for entry in entries
        if entry.state == READY and not entry.leases and not entry.pinned
        if now_s - entry.used_s >= (kept_s := keep_alive_s(entry, rules))
    }


def _no_room(name: str, claim: Claim, limit: _Limit, now_s: float) -> MemoryBudgetError:
    """The refusal to load a model, with why the others stay."""
    needed = _bytes(claim.private_bytes + claim.shared_bytes)
    short = shortage(limit.entries, claim, limit.rules)
    missing = " and ".join(
        f"{_bytes(size)} of {kind} memory"
        for size, kind in zip(short, ("host", "device"), strict=True)
        if size
    )
    kept = [
        f"{other.model.name} ({why})"
        for other in limit.entries
        if other.claim is not None and (why := kept_because(other, limit.rules, now_s)) is not None
    ]
    larger = "promise more memory" if limit.whose else "give the pool a larger budget"
    return MemoryBudgetError(
        f"no room for {name}, which needs {needed}: {missing} are missing{limit.whose}",
        hint=f"kept are {', '.join(kept)}" if kept else larger,
    )


def state_of(entry: Entry, now_s: float) -> ModelState:
    """What people are told of a model."""
    claim, loaded = entry.claim, entry.state == READY
    return ModelState(
        name=entry.model.name,
        state=entry.state,
        reason=entry.reason,
        how=entry.how,
        host_bytes=0 if claim is None else claim.private_bytes + claim.shared_bytes,
        device_bytes=0 if claim is None else claim.device_bytes,
        leases=entry.leases,
        pinned=entry.pinned,
        uses_per_s=entry.rate.per_s(now_s),
        idle_s=now_s - entry.used_s if loaded else None,
        load_ms=entry.reload_ms if loaded else None,
    )


def _excess(size: int, limit: int | None) -> int:
    return 0 if limit is None else max(0, size - limit)


def _bytes(size: int) -> str:
    return format_value(size, Dimension.BYTES)


def leased(entry: Entry, now_s: float) -> Predictor | None:
    """The model for one run more; None if it is not loaded."""
    if entry.state != READY:
        return None
    entry.leases += 1
    entry.used_s = now_s
    return entry.predictor


def done_with(error: Exception | None) -> Future[None]:
    """A load that has ended."""
    future: Future[None] = Future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future
