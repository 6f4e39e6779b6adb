"""Names when two catalogs become one: what is the same under them, what is not, and what is done.

A model is the same if its content is, whatever it is called; so names only matter for what is new.
Everything else is the same if all that is kept of it is the same but its name and the time it was
kept: what an earlier merge gave another name is found again under that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sommelier.errors import StorageError
from sommelier.records import ModelRecord
from sommelier.storage.catalog import Catalog

CHOICES = ("fail", "rename", "skip")
_SHOWN = 8  # conflicts that an error names


@dataclass(frozen=True, slots=True)
class NameConflict:
    """One name for two things. kind : 'model', 'alias', 'dataset', 'pool' ... became : what the
    other catalog's is called now; None: it was left out."""

    kind: str
    name: str
    became: str | None

    def __str__(self) -> str:
        done = "was left out" if self.became is None else f"is called '{self.became}' now"
        return f"{self.kind} '{self.name}' {done}"


@dataclass(slots=True)
class Names:
    """What is decided about names. choice : one of CHOICES. known : kind -> name there -> name
    here. left : kind -> what stays behind: ids of models and links, names of all else."""

    choice: str
    conflicts: list[NameConflict] = field(default_factory=list)
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    left: dict[str, set[str]] = field(default_factory=dict)

    def here(self, kind: str, name: str | None) -> str | None:
        """What is called `name` there."""
        return name if name is None else self.known.get(kind, {}).get(name, name)

    def is_left(self, kind: str, *names: str | None) -> bool:
        """Whether one of them stays behind."""
        return not self.left.get(kind, set()).isdisjoint(names)

    def leave(self, kind: str, key: str) -> None:
        self.left.setdefault(kind, set()).add(key)

    def settle(self, kind: str, name: str, key: str, taken: Collection[str]) -> str | None:
        """The name here of what is called `name` there, where that is taken; None: it stays behind.

        With the choice 'fail' it is decided as by 'skip', and `check` raises in the end.
        """
        became = None
        if self.choice == "rename":
            became = next(new for number in _numbers() if (new := f"{name}_{number}") not in taken)
            self.known.setdefault(kind, {})[name] = became
        else:
            self.leave(kind, key)
        self.conflicts.append(NameConflict(kind, name, became))
        return became

    def check(self) -> None:
        """Raise StorageError where names clash and nothing was chosen to be done about it."""
        told = [f"{one.kind} '{one.name}'" for one in self.conflicts if one.kind != "alias"]
        if self.choice != "fail" or not told:
            return
        more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise StorageError(
            f"{len(told)} names stand for something else in the other catalog: "
            f"{', '.join(told[:_SHOWN])}{more}; nothing was merged",
            hint="--conflicts rename keeps both, the arriving one under another name;"
            " --conflicts skip leaves it out",
        )


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What becomes of models. arriving : as they are to be added. joined : those of both catalogs
    of which more is known now. both : ids of all that are in both."""

    arriving: list[ModelRecord]
    joined: list[ModelRecord]
    both: set[str]


def merged_models(source: Catalog, target: Catalog, names: Names) -> ModelNames:
    """Which models of `source` are new to `target`, and what it says of those it knows."""
    ours = {record.id: record for record in target.models()}
    called = {(record.name, record.version) for record in ours.values()}
    aliases = {alias for record in ours.values() for alias in record.aliases}
    taken = aliases.union(name for name, _ in called)
    arriving, joined = [], []
    theirs = source.models()
    for record in theirs:
        if record.id in ours:
            continue
        if (record.name, record.version) in called or record.name in aliases:
            name = names.settle("model", record.name, record.id, taken)
            if name is None:
                continue
            record = replace(record, name=name)
        called.add((record.name, record.version))
        taken.add(record.name)
        arriving.append(record)
    arriving = [_with_free_aliases(record, taken, names) for record in arriving]
    for record in theirs:
        if record.id in ours:
            more = _joined(ours[record.id], record, taken)
            if more != ours[record.id]:
                joined.append(more)
    both = {record.id for record in theirs} & ours.keys()
    return ModelNames(arriving, joined, both)


def _with_free_aliases(record: ModelRecord, taken: set[str], names: Names) -> ModelRecord:
    free = []
    for alias in record.aliases:
        if alias in taken:
            names.conflicts.append(NameConflict("alias", alias, None))
        else:
            taken.add(alias)
            free.append(alias)
    return replace(record, aliases=tuple(free))


def _joined(ours: ModelRecord, theirs: ModelRecord, taken: set[str]) -> ModelRecord:
    """One model that both know: all its names that are free, all its tags, what either knows.

    Where both know something, what is known here stays.
    """
    aliases = list(ours.aliases)
    for name in (theirs.name, *theirs.aliases):
        if name not in taken:
            taken.add(name)
            aliases.append(name)
    filled = {
        name: getattr(theirs, name)
        for name in _FILLED
        if not getattr(ours, name) and getattr(theirs, name)
    }
    if ours.output_kind_inferred and not theirs.output_kind_inferred:
        filled |= {"output_kind": theirs.output_kind, "output_kind_inferred": False}
    tags = dict.fromkeys((*ours.tags, *theirs.tags))
    return replace(ours, aliases=tuple(aliases), tags=tuple(tags), **filled)


_FILLED = (
    "revision", "task", "family", "license", "format", "inputs", "outputs", "label_space_id",
    "preprocessing", "opset", "producer", "graph_hash", "weight_hash", "minhash", "artifact",
    "note", "homepage", "created",
)  # fmt: skip


def matched(
    kind: str,
    theirs: Mapping[str, object],
    ours: Mapping[str, object],
    names: Names,
) -> list[str]:
    """The names there of what is to be added. theirs, ours : name -> what is kept under it."""
    new, taken = [], {*ours}
    for name, content in theirs.items():
        if name not in taken:
            taken.add(name)
            new.append(name)
            continue
        if ours.get(name) == content:
            continue
        same = next((mine for mine in _alike(name, ours) if ours[mine] == content), None)
        if same is not None:
            names.known.setdefault(kind, {})[name] = same
            continue
        became = names.settle(kind, name, name, taken)
        if became is not None:
            taken.add(became)
            new.append(name)
    return new


def _alike(name: str, ours: Iterable[str]) -> Iterable[str]:
    """Names that an earlier merge may have made of this one."""
    return (
        mine for mine in ours if mine.startswith(f"{name}_") and mine[len(name) + 1 :].isdigit()
    )


def _numbers() -> Iterable[int]:
    number = 2
    while True:
        yield number
        number += 1
