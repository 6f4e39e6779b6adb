"""What torchvision's source says of its pretrained weights, read as syntax: nothing is imported.

Each architecture has an enum of Weights(url=, transforms=, meta={...}) beside the function that
builds it. `meta` is a literal but for names of constants of the same module, or of one it imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sommelier.errors import RejectedModelError, first_line

ENUM, ENTRY, DEFAULT = "WeightsEnum", "Weights", "DEFAULT"
MAX_MODULE_BYTES = 200_000  # its syntax may take a thousand times as much; the largest has 64 kB
MAX_VALUES = 10**6  # read of one release, some 30 000 in torchvision 0.28


@dataclass(frozen=True, slots=True)
class Unread:
    """An expression that is no literal. text : its name, or what kind of expression it is."""

    text: str


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """One set of pretrained weights. enum, entry : its name, as ResNet18_Weights.IMAGENET1K_V1.

    builder : the registered name of what builds it, 'resnet18'; None if no function takes it.
    transforms : the arguments of its preprocessing.
    """

    enum: str
    entry: str
    builder: str | None
    default: bool
    url: object
    transforms: Mapping[str, object]
    meta: Mapping[str, object]


@dataclass(slots=True)
class Constants:
    """Constants of modules by their dotted name below torchvision.models; each is read once.

    A module is parsed when something of it is asked for. Raises RejectedModelError where more is
    asked for than MAX_VALUES.
    """

    sources: Mapping[str, bytes]
    _modules: dict[str, Module | RejectedModelError] = field(default_factory=dict)
    _known: dict[tuple[str, str], object] = field(default_factory=dict)
    _left: int = MAX_VALUES

    def module(self, name: str) -> Module:
        """A module's syntax; an empty one for what is not there, such as the standard library.

        Raises RejectedModelError if it is no Python.
        """
        if name not in self._modules:
            try:
                self._modules[name] = Module.of(self.sources.get(name, b""))
            except RejectedModelError as error:
                self._modules[name] = error
        found = self._modules[name]
        if isinstance(found, RejectedModelError):
            raise found
        return found

    def value(self, module: str, name: str) -> object:
        """The constant's value, followed through imports; Unread if it is none."""
        key = (module, name)
        if key not in self._known:
            self._known[key] = Unread(name)  # also what ends a circle
            self._known[key] = self._find(module, name)
        return self._known[key]

    def _find(self, module: str, name: str) -> object:
        try:
            named = self.module(module).named
        except RejectedModelError:
            return Unread(name)
        match named.get(name):
            case (ast.ImportFrom() as statement, str(original)):
                return self.value(_imported(module, statement), original)
            case ast.expr() as value:
                return self.read(module, value)
        return Unread(name)

    def read(self, module: str, node: ast.expr) -> object:
        """The value of a literal; what is none stays Unread, wherever it stands."""
        self._count(1)
        match node:
            case ast.Constant():
                return node.value
            case ast.List() | ast.Tuple():
                return tuple(self.read(module, item) for item in node.elts)
            case ast.Dict():
                return self._mapping(module, node)
            case ast.Name():
                return self.value(module, node.id)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
        return Unread(type(node).__name__)

    def _mapping(self, module: str, node: ast.Dict) -> dict[object, object]:
        found: dict[object, object] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            value = self.read(module, item)
            if key is None:  # **_COMMON_META
                merged = value if isinstance(value, dict) else {}
                self._count(len(merged))
                found |= merged
            elif isinstance(key, ast.Constant):
                found[key.value] = value
        return found

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise RejectedModelError(f"the source states more than {MAX_VALUES} values")


@dataclass(frozen=True, slots=True)
class Module:
    """A module's syntax. named : the first that each of its names is given at its top level, an
    expression, or what it is imported by and its name there."""

    tree: ast.Module
    named: Mapping[str, ast.expr | tuple[ast.ImportFrom, str]]

    @classmethod
    def of(cls, source: bytes) -> Module:
        """Raises RejectedModelError if the source is no Python, or too large."""
        if len(source) > MAX_MODULE_BYTES:
            raise RejectedModelError(f"too large: {len(source)} bytes, limit {MAX_MODULE_BYTES}")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise RejectedModelError(f"not Python: {first_line(error)}") from error
        named: dict[str, ast.expr | tuple[ast.ImportFrom, str]] = {}
        for statement in tree.body:
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    named.setdefault(alias.asname or alias.name, (statement, alias.name))
            elif (pair := _assigned(statement)) is not None:
                named.setdefault(*pair)
        return cls(tree, named)


def entries(module: str, constants: Constants) -> Iterator[WeightsEntry]:
    """All weights that a module states, in its order.

    Raises RejectedModelError if it cannot be read.
    """
    tree = constants.module(module).tree
    builders = _builders(tree)
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and _is_enum(statement):
            try:
                yield from _of_enum(module, statement, builders.get(statement.name), constants)
            except RecursionError as error:
                raise RejectedModelError(f"{statement.name} is nested too deeply") from error


def _of_enum(
    module: str, enum: ast.ClassDef, builder: str | None, constants: Constants
) -> Iterator[WeightsEntry]:
    assigned = [pair for part in enum.body if (pair := _assigned(part)) is not None]
    default = next((v.id for n, v in assigned if n == DEFAULT and isinstance(v, ast.Name)), None)
    for name, value in assigned:
        if not (isinstance(value, ast.Call) and _called(value) == ENTRY):
            continue
        given = {part.arg: part.value for part in value.keywords if part.arg is not None}
        meta = constants.read(module, given["meta"]) if "meta" in given else {}
        yield WeightsEntry(
            enum.name,
            name,
            builder,
            name == default,
            constants.read(module, given["url"]) if "url" in given else None,
            _arguments(module, given.get("transforms"), constants),
            {str(k): v for k, v in meta.items()} if isinstance(meta, dict) else {},
        )


def _arguments(module: str, node: ast.expr | None, constants: Constants) -> dict[str, object]:
    """Keywords of partial(Preset, crop_size=224); {} where the preset is taken as it is."""
    if not isinstance(node, ast.Call):
        return {}
    return {k.arg: constants.read(module, k.value) for k in node.keywords if k.arg is not None}


def _builders(tree: ast.Module) -> dict[str, str]:
    """Enum -> name of the model that takes it: the first enum that its `weights` may be."""
    found: dict[str, str] = {}
    for statement in tree.body:
        if not isinstance(statement, ast.FunctionDef):
            continue
        for argument in (*statement.args.args, *statement.args.kwonlyargs):
            if argument.arg == "weights" and argument.annotation is not None:
                names = [n.id for n in ast.walk(argument.annotation) if isinstance(n, ast.Name)]
                enums = [name for name in names if name.endswith("Weights")]
                if enums:
                    found.setdefault(enums[0], _registered(statement))
    return found


def _registered(function: ast.FunctionDef) -> str:
    """The name in @register_model(name=...), else the function's own."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and _called(decorator) == "register_model":
            for part in decorator.keywords:
                if part.arg == "name" and isinstance(part.value, ast.Constant):
                    return str(part.value.value)
    return function.name


def _imported(module: str, statement: ast.ImportFrom) -> str:
    """The dotted name of what is imported from, relative to where torchvision.models is.

    >>> _imported("quantization.resnet", ast.parse("from .._meta import X").body[0])
    '_meta'
    """
    name = statement.module or ""
    if not statement.level:
        return name.removeprefix("torchvision.models.")
    package = module.split(".")[: -statement.level]
    return ".".join((*package, name))


def _assigned(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target, value = statement.target, statement.value
    else:
        return None
    return (target.id, value) if isinstance(target, ast.Name) else None


def _is_enum(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == ENUM for base in node.bases)


def _called(call: ast.Call) -> str | None:
    return call.func.id if isinstance(call.func, ast.Name) else None
