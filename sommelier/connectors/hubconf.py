"""What a repository of PyTorch Hub offers, read from hubconf.py as syntax; nothing is executed.

Entries are the public callables of hubconf.py, as torch.hub.list would find them by running it: its
own, and those it has from files of the same repository, wherever imports and `import *` lead. What
comes from another package cannot be seen; it counts where hubconf.py names that package among its
dependencies and the name begins in lower case, as functions do, and is no module of the package.
What only running would show, such as names put into globals(), is not found.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from sommelier.connectors.bindings import (
    Bindings,
    Defined,
    Entry,
    Imported,
    Named,
    Source,
    Texts,
    read_bindings,
)
from sommelier.errors import RejectedModelError, first_line

FILE = "hubconf.py"
MAX_SOURCE_BYTES = 200_000  # of one file, whose syntax takes up to a thousand times as much memory
MAX_SOURCES_BYTES = 4 * 10**6  # of all files that are read
MAX_STEPS = 5 * 10**5  # names looked up, a few seconds
MAX_DEPTH = 50  # names that are followed from one to the next
_NOT_MODELS = frozenset(sys.stdlib_module_names) | {"torch", "numpy"}


@dataclass(frozen=True, slots=True)
class Hubconf:
    """entries in alphabetic order, and the packages that hubconf.py says it needs."""

    entries: tuple[Entry, ...]
    dependencies: tuple[str, ...] = ()


def read_hubconf(folder: Path) -> Hubconf:
    """What the hubconf.py of a folder offers. Raises RejectedModelError if it cannot be read."""
    root = folder.resolve()
    reader = _Reader(root)
    dependencies = reader.texts(root / FILE, "dependencies") or ()
    names = sorted(name for name in reader.names(root / FILE) if not name.startswith("_"))
    found = (reader.entry(name, frozenset(dependencies)) for name in names)
    return Hubconf(tuple(entry for entry in found if entry is not None), tuple(dependencies))


def installed(package: str) -> list[str] | None:
    """Folders of a package as it is installed, [] of a single file, None if there is none.

    package : without dots, so that finding it imports nothing.
    """
    try:
        spec = find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):  # '__main__' and what else has no spec
        return None
    return None if spec is None else list(spec.submodule_search_locations or [])


@dataclass(frozen=True, slots=True)
class _Module:
    """A module of the repository. base : its path without suffix; file : None where it is a folder
    without __init__.py."""

    base: Path
    file: Path | None


@dataclass(frozen=True, slots=True)
class _Foreign:
    """Something of a package that is not in the repository. member : of a module, not one that is
    imported as such."""

    path: tuple[str, ...]
    member: bool = False


_Value = Defined | _Module | _Foreign | None


@dataclass(slots=True)
class _Reader:
    """Files of one repository: each is parsed once, each name of each looked up once."""

    root: Path
    _files: dict[Path, Bindings] = field(default_factory=dict)
    _modules: dict[Path, _Module | None] = field(default_factory=dict)
    _values: dict[tuple[Path, str], _Value] = field(default_factory=dict)
    _exports: dict[Path, frozenset[str]] = field(default_factory=dict)
    _open: set[object] = field(default_factory=set)  # what is being looked up: circles end here
    _bytes: int = 0
    _steps: int = 0

    def entry(self, name: str, dependencies: frozenset[str]) -> Entry | None:
        """The callable of that name in hubconf.py; None for what is none."""
        match self._value(self.root / FILE, name):
            case Defined(entry=entry):
                return replace(entry, name=name)
            case _Foreign(path=path, member=True) if path[0] in dependencies:
                return Entry(name) if _may_be_a_model(path) else None
        return None

    def names(self, file: Path) -> frozenset[str]:
        """Every name that a file has, also by `import *`."""
        bindings = self._bindings(file)
        found = set(bindings.sources)
        for star in bindings.stars:
            home = self._module(star, file)
            if isinstance(home, _Module) and home.file is not None:
                found |= self._exported(home.file)
                self._spend(len(found))
        return frozenset(found)

    def texts(self, file: Path, name: str) -> list[str] | None:
        """The texts of a list of the file; None if it has none, or none that can be read."""
        stated: Texts | None = self._bindings(file).lists.get(name)
        found: list[str] = []
        for item in stated or ():
            if isinstance(item, str):
                found.append(item)
                continue
            home = self._followed(item.path, file)
            if not isinstance(home, _Module) or home.file is None:
                return None
            found += self._exported(home.file)
        return None if stated is None else found

    def _bindings(self, file: Path) -> Bindings:
        """What a file binds. Raises RejectedModelError if it is no Python, or lies elsewhere."""
        if file not in self._files:
            tree = _parsed(file, self.root)
            self._bytes += file.stat().st_size
            if self._bytes > MAX_SOURCES_BYTES:
                raise RejectedModelError(f"{FILE} imports more source code than is read here")
            self._files[file] = read_bindings(tree)
        return self._files[file]

    def _spend(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise RejectedModelError(f"the imports of {FILE} are too entangled to be followed")

    def _exported(self, file: Path) -> frozenset[str]:
        """What `import *` brings in: __all__ where it can be read, else the public names."""
        if file not in self._exports:
            if file in self._open or len(self._open) > MAX_DEPTH:
                return frozenset()
            self._open.add(file)
            stated = self.texts(file, "__all__")
            public = (name for name in self.names(file) if not name.startswith("_"))
            self._exports[file] = frozenset(public if stated is None else stated)
            self._open.discard(file)
        return self._exports[file]

    def _value(self, file: Path, name: str) -> _Value:
        """What a name of a file stands for; None where that is nothing to call or look into."""
        self._spend()
        key = (file, name)
        if key not in self._values:
            if key in self._open or len(self._open) > MAX_DEPTH:
                return None
            self._open.add(key)
            self._values[key] = self._last(file, name)
            self._open.discard(key)
        return self._values[key]

    def _last(self, file: Path, name: str) -> _Value:
        """The last binding of a name that can be followed, its own before those of stars."""
        bindings = self._bindings(file)
        for source in reversed(bindings.sources.get(name, [])):
            if found := self._of(source, file):
                return found
        for star in reversed(bindings.stars):
            self._spend()
            home = self._module(star, file)
            if not isinstance(home, _Module) or home.file is None:
                continue
            if name in self._exported(home.file) and (found := self._member(home, name)):
                return found
        return None

    def _of(self, source: Source, file: Path) -> _Value:
        match source:
            case Defined():
                return source
            case Named(path=path, called=called):
                found = self._followed(path, file)
                if not called:
                    return found
                made = found.makes if isinstance(found, Defined) else None
                return None if made is None else Defined(made)
            case Imported(name=name):
                home = self._module(source, file)
                return home if name is None else self._member(home, name)

    def _followed(self, path: tuple[str, ...], file: Path) -> _Value:
        """What a dotted name of a file stands for."""
        found = self._value(file, path[0])
        for part in path[1:]:
            found = self._member(found, part)
        return found

    def _member(self, home: _Value, name: str) -> _Value:
        match home:
            case _Module(base=base, file=file):
                found = None if file is None else self._value(file, name)
                return found or self._at(base / name)
            case _Foreign(path=path):
                return _Foreign((*path, name), member=True)
        return None

    def _module(self, source: Imported, file: Path) -> _Value:
        """The module that is imported from; None where dots lead out of the repository."""
        if not source.level:
            return self._at(self.root.joinpath(*source.module)) or _Foreign(source.module)
        if source.level > len(file.relative_to(self.root).parts):
            return None
        base = file.parents[source.level - 1]
        if not source.module and base != self.root:
            return self._at(base)
        return self._at(base.joinpath(*source.module)) if source.module else _Module(base, None)

    def _at(self, base: Path) -> _Module | None:
        """The module at a path without suffix, found as Python does: packages first."""
        if base not in self._modules:
            files = (base / "__init__.py", base.with_name(f"{base.name}.py"))
            file = next((f for f in files if _lies_in(f, self.root) and f.is_file()), None)
            there = file is not None or (_lies_in(base, self.root) and base.is_dir())
            self._modules[base] = _Module(base, file) if there else None
        return self._modules[base]


def _parsed(path: Path, root: Path) -> ast.Module:
    shown = path.relative_to(root)
    if not path.is_file():
        raise RejectedModelError(f"there is no {shown} in '{root}'")
    if not path.resolve().is_relative_to(root):
        raise RejectedModelError(f"{shown} is a link out of the repository")
    if path.stat().st_size > MAX_SOURCE_BYTES:
        raise RejectedModelError(f"{shown} is too large for source code")
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        raise RejectedModelError(f"{shown} is not Python: {first_line(error)}") from error


def _lies_in(path: Path, root: Path) -> bool:
    """Whether there is something at a path, and within the repository, wherever links lead."""
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # nothing there, a name that is too long, links in circles
        return False


def _may_be_a_model(path: tuple[str, ...]) -> bool:
    """Whether a name of another package is one as functions have, and no module's."""
    if path[0] in _NOT_MODELS or not path[-1][0].islower():
        return False
    return not any(_has_module(Path(home, *path[1:])) for home in installed(path[0]) or ())


def _has_module(base: Path) -> bool:
    return base.is_dir() or base.with_name(f"{base.name}.py").is_file()
