"""What a Python file binds to names when it is imported, read as syntax; nothing is executed.

Only what may be callable is kept: functions, classes, what stands for another name, and imports.
Of what is under an `if`, every branch is read but those that never run at import.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

LISTS = ("__all__", "dependencies")
_DOTS = 16  # parts of a dotted name that are followed
_COPIES = ("list", "sorted", "tuple")


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
class Defined:
    """A callable. makes : what calling it answers, where that is seen to be callable in turn."""

    entry: Entry
    makes: Entry | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """What another name stands for, ('models', 'resnet18'); called : what calling that answers."""

    path: tuple[str, ...]
    called: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """`from module import name`, or `import module` where name is None; level : leading dots."""

    module: tuple[str, ...]
    name: str | None = None
    level: int = 0


Source = Defined | Named | Imported
Texts = tuple[str | Named, ...]
"""Items of a list of texts; a name stands for the `__all__` of that module."""


@dataclass(frozen=True, slots=True)
class Bindings:
    """sources : what each name is bound to, in the order of the file. stars : what is imported
    whole. lists : of LISTS those that are stated, None for one that cannot be read."""

    sources: dict[str, list[Source]] = field(default_factory=dict)
    stars: dict[Imported, None] = field(default_factory=dict)
    lists: dict[str, Texts | None] = field(default_factory=dict)


def read_bindings(tree: ast.Module) -> Bindings:
    """What a module binds at import."""
    found = Bindings()
    for node in _statements(tree.body):
        _bind(node, found)
    return found


def _bind(node: ast.stmt, found: Bindings) -> None:
    match node:
        case ast.FunctionDef(name=name):
            _add(found, name, [Defined(_of_function(node), _returned(node))])
        case ast.ClassDef(name=name):
            _add(found, name, [_of_class(node)])
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _assign(target, value, found)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            _assign(target, value, found)
        case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
            _extend(name, value, found)
        case ast.Expr(
            ast.Call(func=ast.Attribute(ast.Name(id=name), "extend" | "append"), args=[value])
        ):
            _extend(name, value, found)
        case ast.Import() | ast.ImportFrom():
            _import(node, found)


def _add(found: Bindings, name: str, sources: Iterable[Source]) -> None:
    found.sources.setdefault(name, []).extend(sources)


def _assign(target: ast.expr, value: ast.expr, found: Bindings) -> None:
    match target, value:
        case ast.Name(id=name), _ if name in LISTS:
            found.lists[name] = _texts(value)
        case ast.Name(id=name), _:
            _add(found, name, _sources(value))
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            for one, its in zip(targets, values, strict=True):
                _assign(one, its, found)


def _extend(name: str, value: ast.expr, found: Bindings) -> None:
    if name in LISTS:
        known, more = found.lists.get(name, ()), _texts(value)
        found.lists[name] = None if known is None or more is None else known + more


def _import(node: ast.Import | ast.ImportFrom, found: Bindings) -> None:
    for alias in node.names:
        if isinstance(node, ast.Import):
            words = tuple(alias.name.split("."))
            shown = alias.asname or words[0]
            _add(found, shown, [Imported(words if alias.asname else words[:1])])
            continue
        home = tuple(node.module.split(".")) if node.module else ()
        if alias.name == "*":
            found.stars[Imported(home, None, node.level)] = None
        else:
            _add(found, alias.asname or alias.name, [Imported(home, alias.name, node.level)])


def _sources(value: ast.expr) -> Iterator[Source]:
    """What a value may be, as far as that may be callable."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case ast.IfExp(body=first, orelse=second):
                waiting += [first, second]
            case ast.BoolOp(values=values):
                waiting += values
            case ast.Lambda(args=arguments):
                yield Defined(Entry("", "", *_parameters(arguments)))
            case ast.Call(func=made):
                if path := _dotted(made):
                    partial = path[-1] == "partial"
                    yield Defined(Entry("")) if partial else Named(path, called=True)
            case other:
                if path := _dotted(other):
                    yield Named(path)


def _texts(value: ast.expr) -> Texts | None:
    """The texts of a list, of sums of lists and of `module.__all__`; None for anything else."""
    found: list[str | Named] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case ast.List(elts=items) | ast.Tuple(elts=items):
                waiting += reversed(items)
            case ast.Constant(value=str() as text):
                found.append(text)
            case ast.Starred(value=inner):
                waiting.append(inner)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                waiting += [right, left]
            case ast.Call(func=ast.Name(id=made), args=[inner]) if made in _COPIES:
                waiting.append(inner)
            case ast.Attribute(value=home, attr="__all__") if path := _dotted(home):
                found.append(Named(path))
            case _:
                return None
    return tuple(found)


def _dotted(value: ast.expr) -> tuple[str, ...]:
    """('a', 'b') of a.b; () for what is no dotted name."""
    parts: list[str] = []
    while isinstance(value, ast.Attribute) and len(parts) < _DOTS:
        parts.append(value.attr)
        value = value.value
    return (value.id, *reversed(parts)) if isinstance(value, ast.Name) else ()


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements in order, also those in if, try and with."""
    waiting = [*reversed(body)]
    while waiting:
        node = waiting.pop()
        yield node
        match node:
            case ast.If(test=test, body=first, orelse=second):
                waiting += reversed(second if _never(test) else [*first, *second])
            case ast.Try() | ast.TryStar():
                handlers = [inner for handler in node.handlers for inner in handler.body]
                waiting += reversed([*node.body, *handlers, *node.orelse, *node.finalbody])
            case ast.With(body=inside):
                waiting += reversed(inside)


def _never(test: ast.expr) -> bool:
    """Whether a condition does not hold at import: being the program, or being type-checked."""
    match test:
        case ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()]):
            return True
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
    return False


def _of_function(node: ast.FunctionDef) -> Entry:
    return Entry(node.name, _summary(node), *_parameters(node.args))


def _returned(node: ast.FunctionDef) -> Entry | None:
    """The function that a function makes and returns; None if none is seen."""
    inner: dict[str, Entry] = {}
    for statement in _statements(node.body):
        match statement:
            case ast.FunctionDef(name=name):
                inner[name] = _of_function(statement)
            case ast.ClassDef(name=name):
                inner[name] = _of_class(statement).entry
            case ast.Return(value=ast.Name(id=name)) if name in inner:
                return inner[name]
            case ast.Return(value=ast.Lambda() | ast.Call() as value):
                for source in _sources(value):
                    if isinstance(source, Defined):
                        return source.entry
    return None


def _of_class(node: ast.ClassDef) -> Defined:
    methods = {inner.name: inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
    summary = _summary(node)
    made, called = methods.get("__init__"), methods.get("__call__")
    entry = Entry(node.name, summary, *_method(made)) if made else Entry(node.name, summary)
    return Defined(entry, Entry(node.name, summary, *_method(called)) if called else None)


def _method(node: ast.FunctionDef) -> tuple[tuple[str, ...], bool]:
    names, keywords = _parameters(node.args)
    return names[1:], keywords


def _parameters(arguments: ast.arguments) -> tuple[tuple[str, ...], bool]:
    plain = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return tuple(one.arg for one in plain), arguments.kwarg is not None


def _summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    text = (ast.get_docstring(node) or "").strip()
    return text.splitlines()[0].strip() if text else ""
