"""What a repository of PyTorch Hub offers, read from hubconf.py as syntax; nothing is executed.

Entries are the public callables of hubconf.py, its own and those it imports from files of the same
repository, as torch.hub.list would find them by running it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sommelier.errors import RejectedModelError, first_line

FILE = "hubconf.py"
MAX_SOURCE_BYTES = 2 * 10**6
MAX_DEPTH = 8  # imports that are followed from one file to the next
_NOT_MODELS = frozenset(sys.stdlib_module_names) | {"torch", "numpy"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that a repository makes. summary : first line of its docstring; parameters : their
    names, None where the code is not in the repository; keywords : it takes others besides."""

    name: str
    summary: str = ""
    parameters: tuple[str, ...] | None = None
    keywords: bool = False

    @property
    def signature(self) -> str:
        """The call as one would write it, 'resnet18(weights, progress, ...)'."""
        if self.parameters is None:
            return f"{self.name}(...)"
        return f"{self.name}({', '.join((*self.parameters, *(['...'] if self.keywords else [])))})"


@dataclass(frozen=True, slots=True)
class Hubconf:
    """entries in alphabetic order, and the packages that hubconf.py says it needs."""

    entries: tuple[Entry, ...]
    dependencies: tuple[str, ...] = ()


def read_hubconf(folder: Path) -> Hubconf:
    """What the hubconf.py of a folder offers. Raises RejectedModelError if it cannot be read."""
    reader = _Reader(folder.resolve())
    tree = reader.tree(folder.resolve() / FILE)
    found = (reader.entry(name, folder.resolve() / FILE, 0) for name in sorted(_names(tree)))
    entries = tuple(entry for entry in found if entry is not None)
    return Hubconf((*entries, *reader.starred(tree, folder.resolve() / FILE)), _dependencies(tree))


@dataclass(slots=True)
class _Reader:
    """Files of one repository, each parsed once."""

    root: Path
    _trees: dict[Path, ast.Module] = field(default_factory=dict)

    def tree(self, path: Path) -> ast.Module:
        """The file as syntax. Raises RejectedModelError if it is none, or lies elsewhere."""
        if path not in self._trees:
            self._trees[path] = _parsed(path, self.root)
        return self._trees[path]

    def entry(self, name: str, path: Path, depth: int) -> Entry | None:
        """The callable of that name in a file; None for what is none, or no model's."""
        if depth > MAX_DEPTH:
            return None
        for node in _statements(self.tree(path)):
            match node:
                case ast.FunctionDef(name=found) if found == name:
                    return _of_function(node)
                case ast.ClassDef(name=found) if found == name:
                    return _of_class(node)
                case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                    return self._assigned(node.value, name, path, depth)
                case ast.ImportFrom():
                    for alias in node.names:
                        if (alias.asname or alias.name) == name:
                            return self._imported(node, alias.name, name, path, depth)
        return self._starred_entry(name, path, depth)

    def starred(self, tree: ast.Module, path: Path) -> Iterator[Entry]:
        """What `from module import *` brings in, of modules of the repository."""
        own = set(_names(tree))
        for node in _star_imports(tree):
            home = self._home(node, path)
            if home is None:
                continue
            for name in sorted(_exported(self.tree(home)) - own):
                entry = self.entry(name, home, 1)
                if entry is not None:
                    yield entry

    def _starred_entry(self, name: str, path: Path, depth: int) -> Entry | None:
        for node in _star_imports(self.tree(path)):
            home = self._home(node, path)
            found = None if home is None else self.entry(name, home, depth + 1)
            if found is not None:
                return found
        return None

    def _assigned(self, value: ast.expr, name: str, path: Path, depth: int) -> Entry | None:
        if isinstance(value, ast.Name) and value.id != name:
            found = self.entry(value.id, path, depth + 1)
            return found and Entry(name, found.summary, found.parameters, found.keywords)
        if isinstance(value, ast.Lambda):
            return Entry(name, "", *_parameters(value.args))
        return Entry(name) if isinstance(value, ast.Call) and _is_partial(value) else None

    def _imported(
        self, node: ast.ImportFrom, name: str, shown: str, path: Path, depth: int
    ) -> Entry | None:
        home = self._home(node, path)
        if home is None:
            outside = (node.module or "").split(".")[0]
            return None if outside in _NOT_MODELS else Entry(shown)
        found = self.entry(name, home, depth + 1)
        return found and Entry(shown, found.summary, found.parameters, found.keywords)

    def _home(self, node: ast.ImportFrom, path: Path) -> Path | None:
        """The file of the repository that is imported from; None for other packages."""
        base = self.root if node.level == 0 else path.parents[node.level - 1]
        if not base.is_relative_to(self.root):
            return None
        for part in (node.module or "").split("."):
            base = base / part if part else base
        for file in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if file.is_file() and file.resolve().is_relative_to(self.root):
                return file
        return None


def _parsed(path: Path, root: Path) -> ast.Module:
    shown = path.relative_to(root).as_posix()
    if not path.is_file():
        raise RejectedModelError(f"there is no {shown}")
    if not path.resolve().is_relative_to(root):
        raise RejectedModelError(f"{shown} is a link out of the repository")
    if path.stat().st_size > MAX_SOURCE_BYTES:
        raise RejectedModelError(f"{shown} is too large for source code")
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        raise RejectedModelError(f"{shown} is not Python: {first_line(error)}") from error


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements of a module, also those in if, try and with; the last of a name would win."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            waiting += [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            waiting += [s for handler in getattr(node, "handlers", []) for s in handler.body]


def _names(tree: ast.Module) -> set[str]:
    """Public names that a module defines or imports one by one."""
    found: set[str] = set()
    for node in _statements(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]):
                found.add(name)
            case ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name for alias in names if alias.name != "*"}
    return {name for name in found if not name.startswith("_")}


def _exported(tree: ast.Module) -> set[str]:
    """What a star imports: __all__ where it is a plain list, else the public names."""
    for node in _statements(tree):
        if isinstance(node, ast.Assign) and _targets(node, "__all__"):
            return set(_texts(node.value))
    return _names(tree)


def _dependencies(tree: ast.Module) -> tuple[str, ...]:
    for node in _statements(tree):
        if isinstance(node, ast.Assign) and _targets(node, "dependencies"):
            return tuple(_texts(node.value))
    return ()


def _star_imports(tree: ast.Module) -> list[ast.ImportFrom]:
    nodes = [node for node in _statements(tree) if isinstance(node, ast.ImportFrom)]
    return [node for node in nodes if any(alias.name == "*" for alias in node.names)]


def _targets(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _texts(value: ast.expr) -> list[str]:
    items = value.elts if isinstance(value, ast.List | ast.Tuple) else []
    constants = (item.value for item in items if isinstance(item, ast.Constant))
    return [text for text in constants if isinstance(text, str)]


def _of_function(node: ast.FunctionDef) -> Entry:
    return Entry(node.name, _summary(node), *_parameters(node.args))


def _of_class(node: ast.ClassDef) -> Entry:
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            names, keywords = _parameters(inner.args)
            return Entry(node.name, _summary(node), names[1:], keywords)
    return Entry(node.name, _summary(node))


def _parameters(arguments: ast.arguments) -> tuple[tuple[str, ...], bool]:
    plain = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return tuple(one.arg for one in plain), arguments.kwarg is not None


def _is_partial(call: ast.Call) -> bool:
    made = call.func
    return (made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")) == "partial"


def _summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    text = (ast.get_docstring(node) or "").strip()
    return text.splitlines()[0].strip() if text else ""
