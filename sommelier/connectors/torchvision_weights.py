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
    """Constants of modules by their dotted name below torchvision.models; each is read once."""

    modules: Mapping[str, ast.Module]
    _known: dict[tuple[str, str], object] = field(default_factory=dict)

    def value(self, module: str, name: str) -> object:
        """The constant's value, followed through imports; Unread if it is none."""
        key = (module, name)
        if key not in self._known:
            self._known[key] = Unread(name)  # also what ends a circle
            self._known[key] = self._find(module, name)
        return self._known[key]

    def _find(self, module: str, name: str) -> object:
        tree = self.modules.get(module)
        for statement in tree.body if tree is not None else ():
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        return self.value(_imported(module, statement), alias.name)
            target = _assigned(statement)
            if target is not None and target[0] == name:
                return self.read(module, target[1])
        return Unread(name)

    def read(self, module: str, node: ast.expr) -> object:
        """The value of a literal; what is none stays Unread, wherever it stands."""
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
                found |= value if isinstance(value, dict) else {}
            elif isinstance(key, ast.Constant):
                found[key.value] = value
        return found


def parsed(source: bytes) -> ast.Module:
    """The syntax of a module. Raises RejectedModelError if it is no Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RejectedModelError(f"not Python: {first_line(error)}") from error


def entries(module: str, constants: Constants) -> Iterator[WeightsEntry]:
    """All weights that a module states, in its order."""
    tree = constants.modules[module]
    builders = _builders(tree)
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and _is_enum(statement):
            yield from _of_enum(module, statement, builders.get(statement.name), constants)


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
